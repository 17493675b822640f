package agent

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// books are host-local's, as its plugin leaves them.
type books struct {
	t   *testing.T
	dir string
}

func newBooks(t *testing.T) books {
	b := books{t, filepath.Join(t.TempDir(), "networks")}
	b.write("lab/10.8.0.2", "aaaa\r\neth0")
	b.write("lab/10.8.0.3", "bbbb\r\neth0")
	b.write("lab/last_reserved_ip.0", "10.8.0.3")
	b.write("lab/lock", "")
	b.write("podman/10.88.0.2", "cccc\r\neth0")
	b.write("podman/last_reserved_ip.0", "10.88.0.2")
	return b
}

func (b books) write(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// entries are the addresses of one book, ours with the workload's name.
func (b books) entries(book string) string {
	b.t.Helper()
	files, err := os.ReadDir(filepath.Join(b.dir, book))
	if err != nil {
		b.t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		text, _ := os.ReadFile(filepath.Join(b.dir, book, f.Name()))
		if rest, ours := strings.CutPrefix(string(text), entryMark); ours {
			name, _, _ := strings.Cut(rest, "\r\n")
			all = append(all, f.Name()+"="+name)
		} else if strings.Contains(f.Name(), "10.") {
			all = append(all, f.Name())
		}
	}
	return strings.Join(all, " ")
}

func (b books) agent(d *daemon) { d.hostLocal.dir = b.dir }

func TestWhatHostLocalGaveIsNotGivenAgain(t *testing.T) {
	b, w := newBooks(t), newWorld(t)
	d := w.start()
	b.agent(d)
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	for _, name := range []string{"a", "b", "c"} {
		w.kernel.AddNetns("/run/netns/" + name)
	}
	add := func(name string, ips ...string) (api.Workload, error) {
		return d.add(name, "lab", api.EndpointSpec{Network: "lab", IPs: ips})
	}
	must[api.Workload](t)(add("a"))
	must[api.Workload](t)(add("b"))
	if got, want := b.entries("lab"), "10.8.0.2 10.8.0.3 10.8.0.4=a 10.8.0.5=b"; got != want {
		t.Errorf("the book has %s, want %s", got, want)
	}
	_, err := add("c", "10.8.0.2")
	refused(t, err, model.CodeAddressTaken, "aaaa")
	if left, _ := d.Workload("c"); left.Name != "" {
		t.Errorf("refused, and yet there: %+v", left)
	}

	// The old containers end, and one of ours: host-local and we may give their addresses again.
	if err := os.Remove(filepath.Join(b.dir, "lab/10.8.0.2")); err != nil {
		t.Fatal(err)
	}
	must[api.Workload](t)(add("c", "10.8.0.2"))
	if err := d.del("b"); err != nil {
		t.Fatal(err)
	}
	if got, want := b.entries("lab"), "10.8.0.2=c 10.8.0.3 10.8.0.4=a"; got != want {
		t.Errorf("then it has %s, want %s", got, want)
	}
	if got := b.entries("podman"); got != "10.88.0.2" {
		t.Errorf("a book of other addresses has %s", got)
	}
	_, err = d.add("b", "lab", api.EndpointSpec{Network: "lab", IPRanges: []string{"10.8.0.3-10.8.0.4"}})
	refused(t, err, model.CodeExhausted, "10.8.0.")
	w.checkConverged(d)
}

// Entries that a crash left go with the next start; those of workloads that are there stay ours, also without their book's other entries.
func TestEntriesOfACrashGo(t *testing.T) {
	b, w := newBooks(t), newWorld(t)
	d := w.start()
	b.agent(d)
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	w.kernel.AddNetns("/run/netns/a")
	must[api.Workload](t)(d.add("a", "lab", api.EndpointSpec{Network: "lab"}))
	b.write("lab/10.8.0.9", entryMark+"gone\r\neth0")
	b.write("lab/10.8.0.10", entryMark+"a\r\neth0")
	b.write("lab/"+unlinked, entryMark)
	h := newHostLocal(b.dir, d.deps.Log, d.deps.Now)
	h.sweep(d.view().Workloads)
	if got, want := b.entries("lab"), "10.8.0.2 10.8.0.3 10.8.0.4=a"; got != want {
		t.Errorf("after the sweep the book has %s, want %s", got, want)
	}
	d.hostLocal = h
	if err := d.del("a"); err != nil {
		t.Fatal(err)
	}
	if got, want := b.entries("lab"), "10.8.0.2 10.8.0.3"; got != want {
		t.Errorf("after the DEL it has %s, want %s", got, want)
	}
}

// An address that host-local gives between our look and our entry is found out, and what was entered before it is struck out.
func TestAnAddressGivenMeanwhileIsFoundOut(t *testing.T) {
	b := newBooks(t)
	b.write("six/last_reserved_ip.0", "fd08::7")
	h := newHostLocal(b.dir, nil, newWorld(t).start().deps.Now)
	networks := map[string]model.Network{"lab": {Subnets: []model.Subnet{{Prefix: netip.MustParsePrefix("10.8.0.0/24")}, {Prefix: netip.MustParsePrefix("fd08::/64")}}}}
	web := model.Workload{Name: "web", Endpoints: []model.Endpoint{{Network: "lab", IfName: "eth0", Addrs: addrs("fd08::9", "10.8.0.3")}}}
	if err := h.enter(web, networks); !errors.As(err, new(*heldError)) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "six/fd08::9")); err == nil || len(h.entered) != 0 {
		t.Errorf("its other address is entered: %v", h.entered)
	}
	web.Endpoints[0].Addrs = addrs("fd08::9", "10.8.0.7")
	if err := h.enter(web, networks); err != nil || len(h.entered["web"]) != 2 {
		t.Errorf("free ones: %v, %v", h.entered, err)
	}
	if held := slices.Collect(func(yield func(string) bool) {
		for _, a := range addrs("fd08::9", "10.8.0.7", "10.8.0.8") {
			if h.holds(a) && !yield(a.String()) {
				return
			}
		}
	}); !slices.Equal(held, []string{"fd08::9", "10.8.0.7"}) {
		t.Errorf("held are %v", held)
	}
}

// Containers that ended while no flatnetd ran have their addresses in no book, once one runs again.
func TestContainersThatEndedMeanwhileAreInNoBook(t *testing.T) {
	b, w := newBooks(t), newWorld(t)
	d := w.start()
	b.agent(d)
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	for _, name := range []string{"a", "b"} {
		w.kernel.AddNetns("/run/netns/" + name)
		must[api.Workload](t)(d.add(name, "lab", api.EndpointSpec{Network: "lab"}))
	}
	d.end(t)
	w.kernel.RemoveNetns("/run/netns/a")
	again := b.startAgain(d)
	if got, want := b.entries("lab"), "10.8.0.2 10.8.0.3 10.8.0.5=b"; got != want {
		t.Errorf("the book has %s, want %s", got, want)
	}
	w.checkConverged(again)
	if _, err := again.Uninstall(context.Background(), false, false); err != nil {
		t.Fatal(err)
	}
	if got, want := b.entries("lab"), "10.8.0.2 10.8.0.3"; got != want {
		t.Errorf("after an uninstall the book has %s, want %s", got, want)
	}
}

// startAgain starts the daemon anew, with the books from its start on.
func (b books) startAgain(d *daemon) *daemon {
	b.t.Helper()
	config := d.config
	config.HostLocalDir = b.dir
	ctx, cancel := context.WithCancel(context.Background())
	again := &daemon{Agent: New(config, d.deps), cancel: cancel, done: make(chan error, 1)}
	go func() { again.done <- again.Run(ctx) }()
	b.t.Cleanup(func() { again.end(b.t) })
	ends(b.t, "the start", func() {
		select {
		case <-again.Ready():
		case err := <-again.done:
			again.done <- err
			b.t.Errorf("the daemon ended at its start: %v", err)
		}
	})
	return again
}

// ends fails when something does not end.
func ends(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

func (b books) fifo(name string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), syscall.Mkfifo(path, 0o600)); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b books) link(to, name string) {
	b.t.Helper()
	if err := os.Symlink(to, filepath.Join(b.dir, name)); err != nil {
		b.t.Fatal(err)
	}
}

// Whatever stands at an address in a book holds it. None of it holds the daemon, is taken for an entry of ours, or has it read or write elsewhere.
func TestWhatIsNoFileOfABookHoldsUpNobody(t *testing.T) {
	b, w := newBooks(t), newWorld(t)
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, []byte(entryMark+"gone\r\neth0"), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := b.fifo("lab/10.8.0.4")
	b.link(outside, "lab/10.8.0.5")
	b.write("lab/10.8.0.6", entryMark+"gone\r\n"+strings.Repeat("x", entryLimit))
	b.link(outside, "lab/"+unlinked)
	b.fifo("lab/last_reserved_ip.1")
	b.fifo("other/" + unlinked)
	b.fifo("other/last_reserved_ip.0")
	b.link(b.fifo("pipe"), "piped")

	d := w.start()
	d.end(t)
	d = b.startAgain(d)
	b.link(outside, "lab/"+unlinked) // the start has swept
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	w.kernel.AddNetns("/run/netns/a")
	ends(t, "an ADD", func() {
		for _, held := range []string{"10.8.0.4", "10.8.0.5", "10.8.0.6"} {
			_, err := d.add("a", "lab", api.EndpointSpec{Network: "lab", IPs: []string{held}})
			refused(t, err, model.CodeAddressTaken, filepath.Join(b.dir, "lab", held))
		}
		if _, err := d.add("a", "lab", api.EndpointSpec{Network: "lab"}); err != nil {
			t.Error(err)
		}
	})
	if text, err := os.ReadFile(filepath.Join(b.dir, "lab/10.8.0.7")); err != nil || string(text) != entryMark+"a\r\neth0" {
		t.Errorf("its entry: %q, %v", text, err)
	}
	if text, _ := os.ReadFile(outside); string(text) != entryMark+"gone\r\neth0" {
		t.Errorf("a file outside of the books is overwritten: %q", text)
	}
	ends(t, "to strike out", func() {
		newHostLocal(b.dir, d.deps.Log, d.deps.Now).strike([]string{fifo, filepath.Join(b.dir, "lab/10.8.0.5")})
	})
	ends(t, "a DEL", func() {
		if err := d.del("a"); err != nil {
			t.Error(err)
		}
	})
	for name, there := range map[string]bool{"10.8.0.4": true, "10.8.0.5": true, "10.8.0.6": true, "10.8.0.7": false} {
		if _, err := os.Lstat(filepath.Join(b.dir, "lab", name)); (err == nil) != there {
			t.Errorf("in the end %s: %v", name, err)
		}
	}
}

// A directory of host-local's may be a link to where another program wants it, made before its target is, and beside the target itself.
func TestABookBehindALinkIsABook(t *testing.T) {
	b, w := newBooks(t), newWorld(t)
	b.link("lab", "also")
	b.link(filepath.Join(b.dir, "..", "later"), "linked")
	d := w.start()
	b.agent(d)
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	for _, name := range []string{"a", "b"} {
		w.kernel.AddNetns("/run/netns/" + name)
	}
	must[api.Workload](t)(d.add("a", "lab", api.EndpointSpec{Network: "lab"}))
	b.write("../later/10.8.0.5", "dddd\r\neth0")
	b.write("../later/last_reserved_ip.0", "10.8.0.5")
	must[api.Workload](t)(d.add("b", "lab", api.EndpointSpec{Network: "lab"}))
	if lab, linked := b.entries("lab"), b.entries("linked"); lab != "10.8.0.2 10.8.0.3 10.8.0.4=a 10.8.0.6=b" || linked != "10.8.0.5 10.8.0.6=b" {
		t.Errorf("the books have %s, and behind the link %s", lab, linked)
	}
	for _, name := range []string{"a", "b"} {
		if err := d.del(name); err != nil {
			t.Fatal(err)
		}
	}
	if lab, linked := b.entries("lab"), b.entries("linked"); lab != "10.8.0.2 10.8.0.3" || linked != "10.8.0.5" {
		t.Errorf("then they have %s, and behind the link %s", lab, linked)
	}
}

// host-local writes the address that it gave last in two steps: nothing stands there for a moment.
func TestABookBeingWrittenIsABook(t *testing.T) {
	b := newBooks(t)
	read := &book{path: filepath.Join(b.dir, "lab")}
	of := func(prefix string) bool {
		return read.about(netip.MustParsePrefix(prefix), newWorld(t).start().deps.Now())
	}
	b.write("lab/last_reserved_ip.0", "")
	if !of("10.8.0.0/24") {
		t.Error("not read yet, and taken for none")
	}
	b.write("lab/last_reserved_ip.0", "10.8.0.3")
	if !of("10.8.0.0/24") || of("10.9.0.0/24") {
		t.Error("once it is read")
	}
	b.write("lab/last_reserved_ip.0", "")
	if !of("10.8.0.0/24") || of("10.9.0.0/24") {
		t.Error("while it is written anew")
	}
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}
