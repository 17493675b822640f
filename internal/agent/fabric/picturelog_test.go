package fabric

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
)

// few are up to ten nodes, each with a block: now and then some come, move and go.
func few(r *rand.Rand, was others) others {
	now := others{maps.Clone(was.members), maps.Clone(was.leases)}
	for range r.IntN(4) {
		i := r.IntN(10)
		m := model.Member{ID: fmt.Sprintf("n-%d", i), Name: "h", MTU: 1500, Schema: 1, Underlay4: netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(250))})}
		l := model.Lease{Network: "pods", Node: m.ID, Block: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)}
		if now.members[m.ID], now.leases[l.Key()] = m, l; r.IntN(3) == 0 {
			delete(now.members, m.ID)
			delete(now.leases, l.Key())
		}
	}
	return now
}

func (o others) same(p others) bool {
	return maps.Equal(o.members, p.members) && maps.Equal(o.leases, p.leases)
}

// Whatever comes and goes, a daemon that starts anew knows what was written last; and when a crash cut the file short behind its first
// line, what was written before that.
func TestWhatIsAddedToThePictureIsRead(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	c := &Cache{Folder: join.Folder(t.TempDir())}
	now := others{map[string]model.Member{}, map[model.LeaseKey]model.Lease{}}
	var past []others // since the first line
	added := 0
	for i := range 60 {
		now = few(r, now)
		if i%20 == 19 {
			c.log = pictureLog{} // a new life
		}
		before := c.log.whole
		if err := c.log.write(c.Folder, record{Schema: cacheSchema, Self: "n-0"}, now); err != nil {
			t.Fatal(err)
		}
		if c.log.more == 0 || before == 0 {
			past = nil
		} else {
			added++
		}
		past = append(past, now)
		if last, got, err := c.load(); err != nil || last.Self != "n-0" || !got.same(now) {
			t.Fatalf("seed %d: after %d records: got %v, %v\nwant %v", seed, i+1, got, err, now)
		}
		whole, err := os.ReadFile(c.Path())
		if err != nil {
			t.Fatal(err)
		}
		first := bytes.IndexByte(whole, '\n') + 1
		cut := &Cache{Folder: join.Folder(t.TempDir())}
		short := whole[:first+r.IntN(len(whole)-first+1)]
		if err := cut.Folder.Write(cacheFile, short); err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(string(short), "\n")
		if _, got, err := cut.load(); err != nil || !got.same(past[lines-1]) && !(lines < len(past) && got.same(past[lines])) {
			t.Fatalf("seed %d: %d bytes of %d: got %v, %v\nwant %v", seed, len(short), len(whole), got, err, past[lines-1])
		}
	}
	if added < 40 {
		t.Errorf("seed %d: only %d records were added to others", seed, added)
	}
}

// Of a file that is damaged in the middle what comes before that is better than nothing.
func TestADamagedPictureIsReadUpToThere(t *testing.T) {
	c := &Cache{Folder: join.Folder(t.TempDir())}
	one := others{members: map[string]model.Member{"a": {ID: "a"}}}
	two := others{members: map[string]model.Member{"a": {ID: "a"}, "b": {ID: "b"}, "other": {ID: "a", Name: "says it is a"}}}
	for _, now := range []others{one, two, one} {
		if err := c.log.write(c.Folder, record{Schema: cacheSchema, Self: "a"}, now); err != nil {
			t.Fatal(err)
		}
	}
	good, err := os.ReadFile(c.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct {
		text string
		self string
		want int // members
	}{
		{string(good), "a", 1},
		{strings.Replace(string(good), "\n", "\ngarbage\n", 1), "a", 1},
		{strings.Join(strings.SplitAfter(string(good), "\n")[:2], "") + "garbage\n", "a", 2},
		{strings.Replace(string(good), `{"schema":1`, `{"schema":9`, 1), "", 0},
		{"garbage", "", 0},
		{"", "", 0},
	} {
		if err := c.Folder.Write(cacheFile, []byte(bad.text)); err != nil {
			t.Fatal(err)
		}
		last, got, err := c.load()
		if last.Self != bad.self || len(got.members) != bad.want || got.members["a"].Name != "" || (err == nil) != (bad.text == "" || bad.text == string(good)) {
			t.Errorf("%.60q: got %q, %v, %v", bad.text, last.Self, got.members, err)
		}
	}
}
