// Package storetest is the contract of package store as a test that every store passes.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Run tests the contract; open gives an empty store each time, closed by its caller.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for name, test := range map[string]func(*testing.T, store.Store){
		"what is put is loaded":                        loads,
		"versions guard single objects":                guards,
		"the same value again changes nothing":         same,
		"one failed change leaves the others":          independent,
		"a snapshot never changes":                     immutable,
		"watch begins with a snapshot":                 watches,
		"watch leaves out other kinds":                 filters,
		"watch joins changes that come faster":         coalesces,
		"watch ends with its context and the store":    ends,
		"of many writers on one version one succeeds":  races,
		"a closed store refuses":                       closes,
		"fields of a newer version survive a rewrite":  preserves,
		"a value of a newer schema is refused":         refusesNewer,
		"an original sysctl is never overwritten":      keepsOriginal,
		"a thousand changes in one call are a snippet": bulk,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { s.Close() })
			test(t, s)
		})
	}
}

func lab(name string) model.Network {
	return model.Network{Name: name, Mode: model.NAT, Subnets: []model.Subnet{{
		Prefix: netip.MustParsePrefix("10.66.0.0/24"), Gateway: netip.MustParseAddr("10.66.0.1")}},
		Labels: map[string]string{"a": "b"}, Created: time.Unix(1e9, 5).UTC()}
}

func web(port uint16) model.Forward {
	return model.Forward{Network: "lab", Workload: "web", Proto: model.TCP, HostPorts: model.Ports{First: port, Last: port}, Ports: model.Ports{First: 80, Last: 80}}
}

func write(t *testing.T, s store.Store, changes ...store.Change) []store.Object {
	t.Helper()
	objects, err := s.Write(t.Context(), changes...)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func load(t *testing.T, s store.Store, kinds ...store.Kind) store.Snapshot {
	t.Helper()
	snap, err := s.Load(t.Context(), kinds...)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func loads(t *testing.T, s store.Store) {
	seed := store.Installation{ULASeed: [5]byte{1, 2, 3, 4, 5}}
	addrs := []netip.Addr{netip.MustParseAddr("10.66.0.7"), netip.MustParseAddr("fd00::7")}
	if _, ok, err := load(t, s).Installation(); ok || err != nil {
		t.Errorf("an empty store has an installation: %v, %v", ok, err)
	}
	write(t, s, store.PutNetwork(lab("lab"), store.New), store.PutForward(web(8080), store.New), store.PutSysctl("net/ipv4/ip_forward", "0"),
		store.PutSticky("lab", "web", addrs), store.PutInstallation(seed, store.New))
	snap := load(t, s)
	networks, err1 := snap.Networks()
	forwards, err2 := snap.Forwards()
	sysctls, err3 := snap.Sysctls()
	sticky, err4 := snap.Sticky()
	install, ok, err5 := snap.Installation()
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil || !ok {
		t.Fatal(ok, err)
	}
	got := fmt.Sprint(networks, forwards, sysctls, sticky, install)
	want := fmt.Sprint(map[string]model.Network{"lab": lab("lab")}, map[string]model.Forward{"tcp/8080": web(8080)},
		map[string]string{"net/ipv4/ip_forward": "0"}, map[string][]netip.Addr{"lab/web": addrs}, seed)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if part := load(t, s, store.Forward); len(part.Objects) != 1 || len(part.Objects[store.Forward]) != 1 {
		t.Errorf("only forwards were asked for: %v", part)
	}
	write(t, s, store.Delete(store.Network, "lab", snap.Version(store.Network, "lab")))
	if left, _ := load(t, s).Networks(); len(left) != 0 {
		t.Errorf("deleted, but there is %v", left)
	}
}

func guards(t *testing.T, s store.Store) {
	first := write(t, s, store.PutNetwork(lab("lab"), store.New))[0].Version
	changed := lab("lab")
	changed.MTU = 1400
	second := write(t, s, store.PutNetwork(changed, first))[0].Version
	if first == second || first == store.New || first == store.Any {
		t.Errorf("versions %q and %q", first, second)
	}
	other := lab("lab")
	other.MTU = 1300
	for _, c := range []struct {
		change store.Change
		want   error
	}{
		{store.PutNetwork(other, store.New), store.ErrExists},
		{store.PutNetwork(other, first), store.ErrConflict},
		{store.PutNetwork(lab("none"), first), store.ErrNotFound},
		{store.Delete(store.Network, "lab", first), store.ErrConflict},
		{store.Delete(store.Network, "none", first), store.ErrNotFound},
		{store.Delete(store.Network, "none", store.Any), nil},
	} {
		_, err := s.Write(t.Context(), c.change)
		if ce := new(store.ChangeError); !errors.Is(err, c.want) || err != nil && (!errors.As(err, &ce) || ce.Name != c.change.Name) {
			t.Errorf("%+v: got %v, want %v", c.change, err, c.want)
		}
	}
	if snap := load(t, s); snap.Version(store.Network, "lab") != second {
		t.Errorf("version %q after refusals, want %q", snap.Version(store.Network, "lab"), second)
	}
	write(t, s, store.Delete(store.Network, "lab", second))
	if again := write(t, s, store.PutNetwork(lab("lab"), store.New))[0].Version; again == first || again == second {
		t.Errorf("version %q came twice", again)
	}
}

func same(t *testing.T, s store.Store) {
	first := write(t, s, store.PutNetwork(lab("lab"), store.New))
	token := load(t, s).Token
	second := write(t, s, store.PutNetwork(lab("lab"), store.Any), store.Delete(store.Forward, "none", store.Any))
	if first[0].Version != second[0].Version || load(t, s).Token != token {
		t.Errorf("version %q, then %q; token %q, then %q", first[0].Version, second[0].Version, token, load(t, s).Token)
	}
}

func independent(t *testing.T, s store.Store) {
	write(t, s, store.PutNetwork(lab("a"), store.New))
	objects, err := s.Write(t.Context(), store.PutNetwork(lab("b"), store.New), store.PutNetwork(lab("a"), store.New), store.PutNetwork(lab("c"), store.New))
	if !errors.Is(err, store.ErrExists) {
		t.Errorf("got %v", err)
	}
	if len(objects) != 3 || objects[0].Name != "b" || objects[1].Name != "" || objects[2].Name != "c" {
		t.Errorf("got %v", objects)
	}
	if names := load(t, s).Names(store.Network); fmt.Sprint(names) != "[a b c]" {
		t.Errorf("got %v", names)
	}
}

func immutable(t *testing.T, s store.Store) {
	write(t, s, store.PutNetwork(lab("a"), store.New))
	snap := load(t, s)
	before := fmt.Sprint(snap)
	write(t, s, store.PutNetwork(lab("b"), store.New), store.Delete(store.Network, "a", store.Any))
	if after := fmt.Sprint(snap); after != before {
		t.Errorf("before %s\nafter  %s", before, after)
	}
	if load(t, s).Token == snap.Token {
		t.Error("the token stayed")
	}
}

func receive(t *testing.T, ch <-chan store.Snapshot) store.Snapshot {
	t.Helper()
	select {
	case snap, ok := <-ch:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return snap
	case <-time.After(30 * time.Second):
		t.Fatal("no snapshot came")
	}
	panic("not reached")
}

func watches(t *testing.T, s store.Store) {
	write(t, s, store.PutNetwork(lab("a"), store.New))
	ch := s.Watch(t.Context())
	if snap := receive(t, ch); fmt.Sprint(snap.Names(store.Network)) != "[a]" {
		t.Errorf("first %v", snap)
	}
	write(t, s, store.PutNetwork(lab("b"), store.New))
	if snap := receive(t, ch); fmt.Sprint(snap.Names(store.Network)) != "[a b]" || snap.Token != load(t, s).Token {
		t.Errorf("second %v", snap)
	}
}

func filters(t *testing.T, s store.Store) {
	ch := s.Watch(t.Context(), store.Network)
	receive(t, ch)
	write(t, s, store.PutSysctl("a", "0"))
	write(t, s, store.PutNetwork(lab("a"), store.New))
	if snap := receive(t, ch); len(snap.Names(store.Network)) != 1 || len(snap.Names(store.Sysctl)) != 0 {
		t.Errorf("got %v", snap)
	}
}

func coalesces(t *testing.T, s store.Store) {
	ch := s.Watch(t.Context(), store.Network)
	receive(t, ch)
	const n = 100
	for i := range n {
		write(t, s, store.PutNetwork(lab(fmt.Sprint("n", i)), store.New))
	}
	received := 0
	for len(receive(t, ch).Names(store.Network)) < n {
		received++
	}
	if received > n {
		t.Errorf("%d snapshots for %d changes", received, n)
	}
}

func ends(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	first, second := s.Watch(ctx), s.Watch(t.Context())
	cancel()
	drain(t, first)
	receive(t, second)
	s.Close()
	drain(t, second)
	drain(t, s.Watch(t.Context()))
}

func drain(t *testing.T, ch <-chan store.Snapshot) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the channel stays open")
		}
	}
}

func races(t *testing.T, s store.Store) {
	base := write(t, s, store.PutNetwork(lab("lab"), store.New))[0].Version
	var wg sync.WaitGroup
	results := make(chan error, 16)
	for i := range cap(results) {
		wg.Go(func() {
			n := lab("lab")
			n.MTU = 1300 + i
			_, err := s.Write(context.Background(), store.PutNetwork(n, base))
			results <- err
		})
	}
	wg.Wait()
	close(results)
	done := 0
	for err := range results {
		if err == nil {
			done++
		} else if !errors.Is(err, store.ErrConflict) {
			t.Error(err)
		}
	}
	if done != 1 {
		t.Errorf("%d writers succeeded", done)
	}
}

func closes(t *testing.T, s store.Store) {
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	_, err1 := s.Load(t.Context())
	_, err2 := s.Write(t.Context(), store.PutSysctl("a", "0"))
	if !errors.Is(err1, store.ErrClosed) || !errors.Is(err2, store.ErrClosed) {
		t.Error(err1, err2)
	}
}

func preserves(t *testing.T, s store.Store) {
	newer := store.Change{Kind: store.Network, Name: "lab", Data: []byte(`{"schema":1,"sealed":true,"value":{"Name":"lab","Mode":"nat","Labels":{"gone":"x"},` +
		`"Future":{"x":[1]},"Subnets":[{"Prefix":"10.1.0.0/24","Gone":1},{"Prefix":"10.66.0.0/24","Pool":"blue","Gateway":"10.66.0.9"}]}}`)}
	write(t, s, newer)
	networks, err := load(t, s).Networks()
	if err != nil {
		t.Fatal(err)
	}
	n := networks["lab"]
	n.MTU, n.Labels, n.Subnets = 1400, nil, n.Subnets[1:]
	write(t, s, store.PutNetwork(n, store.Any))
	write(t, s, store.PutNetwork(n, store.Any))
	var got struct {
		Sealed bool
		Value  struct {
			MTU     int
			Labels  map[string]string
			Future  json.RawMessage
			Subnets json.RawMessage
		}
	}
	text := load(t, s).Objects[store.Network]["lab"].Data
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	subnets := `[{"Gateway":"10.66.0.9","Pool":"blue","Prefix":"10.66.0.0/24","Range":"","Reserved":null}]`
	if v := got.Value; !got.Sealed || v.MTU != 1400 || v.Labels != nil || string(v.Future) != `{"x":[1]}` || string(v.Subnets) != subnets {
		t.Errorf("got %s", text)
	}
}

func refusesNewer(t *testing.T, s store.Store) {
	write(t, s, store.Change{Kind: store.Network, Name: "new", Data: []byte(`{"schema":2,"value":{}}`)}, store.PutNetwork(lab("lab"), store.New))
	networks, err := load(t, s).Networks()
	want := `stored network "new": written with schema 2, this flatnetd reads up to 1: use a newer one`
	if err == nil || err.Error() != want || len(networks) != 1 {
		t.Errorf("got %v, %v; want %s", networks, err, want)
	}
	if _, err := s.Write(t.Context(), store.PutNetwork(lab("new"), store.Any)); err == nil {
		t.Error("a value of a newer schema was overwritten")
	}
	write(t, s, store.Delete(store.Network, "new", store.Any))
}

func keepsOriginal(t *testing.T, s store.Store) {
	write(t, s, store.PutSysctl("net/ipv4/ip_forward", "0"))
	if _, err := s.Write(t.Context(), store.PutSysctl("net/ipv4/ip_forward", "1")); !errors.Is(err, store.ErrExists) {
		t.Errorf("got %v", err)
	}
	if got, err := load(t, s).Sysctls(); err != nil || got["net/ipv4/ip_forward"] != "0" {
		t.Errorf("got %v, %v", got, err)
	}
}

func bulk(t *testing.T, s store.Store) {
	var puts, deletes []store.Change
	for port := range uint16(1000) {
		f := web(8000 + port)
		puts = append(puts, store.PutForward(f, store.New))
		deletes = append(deletes, store.Delete(store.Forward, f.Name(), store.Any))
	}
	write(t, s, puts...)
	if got, err := load(t, s).Forwards(); err != nil || len(got) != 1000 {
		t.Errorf("%d forwards, %v", len(got), err)
	}
	write(t, s, deletes...)
	if got := load(t, s).Names(store.Forward); len(got) != 0 {
		t.Errorf("%d forwards are left", len(got))
	}
}
