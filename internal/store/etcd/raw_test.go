package etcd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/store"
)

// ear keeps what a Raw tells.
type ear struct {
	mu   sync.Mutex
	keys map[string]string
	live bool
	why  error
}

func (e *ear) All(kvs []KV, _ int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys, e.live = map[string]string{}, true
	for _, kv := range kvs {
		e.keys[kv.Key] = string(kv.Value)
	}
}

func (e *ear) Changed(kvs []KV, _ int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live = true
	for _, kv := range kvs {
		if kv.Deleted {
			delete(e.keys, kv.Key)
		} else {
			e.keys[kv.Key] = string(kv.Value)
		}
	}
}

func (e *ear) Away(why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live, e.why = false, why
}

// heard is what is known, in one line.
func (e *ear) heard() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.live {
		return fmt.Sprint("away: ", e.why)
	}
	var all []string
	for _, k := range slices.Sorted(maps.Keys(e.keys)) {
		all = append(all, strings.TrimPrefix(k, "/raw/")+"="+e.keys[k])
	}
	return strings.Join(all, " ")
}

func (e *ear) hears(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got := e.heard()
		if strings.Contains(got, want) && (got == want || strings.HasPrefix(want, "away")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("heard %s, want %s", got, want)
		}
	}
}

func TestKeysOfOthersAreFollowedAndWrittenOnlyAsSeen(t *testing.T) {
	server := cluster(t, 1)[0]
	e := &ear{}
	r, err := OpenRaw(quick("/raw/", server.client), "config", e)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	e.hears(t, "away: there is no /raw/config")
	if _, err := raw(t, server.client).Put(t.Context(), "/raw/config", "c"); err != nil {
		t.Fatal(err)
	}
	e.hears(t, "config=c")

	first, done, err := r.Put(t.Context(), KV{Key: "/raw/x", Value: []byte("1")}, 0)
	if err != nil || !done {
		t.Fatal(first, done, err)
	}
	second, done, err := r.Put(t.Context(), KV{Key: "/raw/x", Value: []byte("2")}, 0)
	if err != nil || done || string(second.Value) != "1" || second.Modified != first.Modified {
		t.Errorf("over one that is there: %+v, %v, %v", second, done, err)
	}
	if gone, done, err := r.Put(t.Context(), KV{Key: "/raw/y", Value: []byte("2")}, first.Modified); err != nil || done || !gone.Deleted {
		t.Errorf("over one that is not there: %+v, %v, %v", gone, done, err)
	}
	second, done, err = r.Put(t.Context(), KV{Key: "/raw/x", Value: []byte("2")}, first.Modified)
	if err != nil || !done || second.Modified <= first.Modified {
		t.Errorf("over what was seen: %+v, %v, %v", second, done, err)
	}
	e.hears(t, "config=c x=2")

	id, until, err := r.Grant(t.Context(), 2*time.Second)
	if err != nil || until <= store.Boottime() {
		t.Fatal(id, until, err)
	}
	if _, done, err := r.Put(t.Context(), KV{Key: "/raw/z", Value: []byte("3"), Lease: id}, 0); err != nil || !done {
		t.Fatal(done, err)
	}
	if again, err := r.Prolong(t.Context(), id); err != nil || again < until {
		t.Errorf("prolonged until %v, was %v: %v", again, until, err)
	}
	if kv, ok, err := r.Get(t.Context(), "/raw/z"); err != nil || !ok || kv.Lease != id {
		t.Errorf("got %+v, %v, %v", kv, ok, err)
	}
	if err := r.Revoke(t.Context(), id); err != nil {
		t.Error(err)
	}
	if _, err := r.Prolong(t.Context(), id); !errors.Is(err, ErrNoLease) {
		t.Errorf("got %v", err)
	}
	if _, _, err := r.Put(t.Context(), KV{Key: "/raw/z", Lease: id}, 0); !errors.Is(err, ErrNoLease) {
		t.Errorf("got %v", err)
	}
	if done, err := r.Delete(t.Context(), "/raw/x", first.Modified); err != nil || done {
		t.Errorf("deleted what was changed: %v, %v", done, err)
	}
	if done, err := r.Delete(t.Context(), "/raw/x", second.Modified); err != nil || !done {
		t.Errorf("got %v, %v", done, err)
	}
	e.hears(t, "config=c")

	server.kill()
	e.hears(t, "away: ")
	server.start()
	e.hears(t, "config=c")
	if reads := r.Stats().Reads; reads != 1 {
		t.Errorf("%d readings of everything, want 1", reads)
	}
}
