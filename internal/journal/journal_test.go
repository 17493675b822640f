package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

const boot = "0d6f2e1c-4a55-4c0e-9d1f-6c3a1f0b7a11"

func workload(name string, pid int) model.Workload {
	return model.Workload{Name: name, Netns: "/run/netns/" + name, Managed: true,
		Endpoints: []model.Endpoint{{Network: "lab", IfName: "eth0", MAC: model.EndpointMAC(name, "lab"),
			Addrs: []netip.Addr{netip.MustParseAddr("10.66.0.2"), netip.MustParseAddr("fd00::2")}}},
		Forwards: []model.Forward{{Network: "lab", Workload: name, Proto: model.TCP, HostPorts: model.Ports{First: 80, Last: 80}, Ports: model.Ports{First: 80, Last: 80}}},
		Process:  model.Process{PID: pid, Start: 1 << 40, Command: "sleep inf"},
		Labels:   map[string]string{"a": "b"}, Created: time.Unix(1e9, 7).UTC()}
}

func mustOpen(t testing.TB, dir, bootID string) (*Journal, Report) {
	t.Helper()
	j, report, err := Open(dir, bootID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j, report
}

func reopen(t testing.TB, dir, bootID string) (map[string]model.Workload, Report) {
	t.Helper()
	j, report := mustOpen(t, dir, bootID)
	defer j.Close()
	return j.Load(), report
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(m map[string]model.Workload) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), " ")
}

func TestWorkloadsAreThereAfterReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	j, report := mustOpen(t, dir, boot)
	if report.String() != "journal in order" || len(j.Load()) != 0 {
		t.Errorf("a new journal: %v, %v", report, j.Load())
	}
	must(t, j.Put(workload("web", 1)))
	must(t, j.Put(workload("db", 2)))
	must(t, j.Put(workload("web", 3)))
	must(t, j.Delete("db"))
	must(t, j.Delete("nobody"))
	want, generation := j.Load(), j.Generation()
	must(t, j.Close())
	must(t, j.Close())
	again, report := mustOpen(t, dir, boot)
	if got := again.Load(); !reflect.DeepEqual(got, want) || names(got) != "web" || got["web"].Process.PID != 3 || again.Generation() != generation || generation != 4 {
		t.Errorf("got %v at %d, want %v at %d; %v", got, again.Generation(), want, generation, report)
	}
}

func TestAnotherBootBeginsAfresh(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, boot)
	must(t, j.Put(workload("web", 1)))
	must(t, j.Close())
	got, report := reopen(t, dir, "another")
	if len(got) != 0 || report.String() != "journal of another boot dropped" {
		t.Errorf("got %v, %v", got, report)
	}
	if got, report = reopen(t, dir, "another"); report.OtherBoot {
		t.Errorf("again %v, %v", got, report)
	}
}

func TestASecondDaemonIsRefused(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, boot)
	if _, _, err := Open(dir, boot); err == nil || !strings.Contains(err.Error(), "another flatnetd uses it") {
		t.Errorf("got %v", err)
	}
	must(t, j.Close())
	mustOpen(t, dir, boot)
}

func TestARefusedChangeChangesNothing(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, boot)
	must(t, j.Put(workload("web", 1)))
	big := workload("web", 2)
	big.Process.Command = strings.Repeat("x", maxPayload)
	if err := j.Put(big); err == nil || !strings.Contains(err.Error(), `put workload "web": more than 1 MiB`) {
		t.Errorf("got %v", err)
	}
	if err := j.Put(model.Workload{}); err == nil {
		t.Error("a workload without a name was put")
	}
	must(t, j.file.Close()) // as good as a disk that fails
	if err := j.Put(workload("db", 1)); err == nil {
		t.Error("put into a closed file")
	}
	if err := j.Delete("web"); err == nil {
		t.Error("deleted in a closed file")
	}
	if got := j.Load(); names(got) != "web" || got["web"].Process.PID != 1 || j.Generation() != 1 {
		t.Errorf("got %v", got)
	}
	j.Close()
	if got, _ := reopen(t, dir, boot); names(got) != "web" || got["web"].Process.PID != 1 {
		t.Errorf("got %v", got)
	}
}

// Somebody removes the file, or its directory: it is written anew, and goes on.
func TestARemovedJournalIsWrittenAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	j, _ := mustOpen(t, dir, boot)
	must(t, j.Put(workload("web", 1)))
	if j.Missing() {
		t.Error("missing while it is there")
	}
	for i, remove := range []func() error{
		func() error { return os.Remove(j.path) },
		func() error { return os.RemoveAll(dir) },
		func() error { return os.Rename(dir, dir+".old") },
		func() error { return os.Rename(j.path, j.path+".old") },
	} {
		must(t, remove())
		must(t, j.Put(workload("meanwhile", i)))
		if !j.Missing() {
			t.Error("not missing when it is gone")
		}
		must(t, j.Restore())
		must(t, j.Put(workload("after", i)))
		if j.Missing() {
			t.Error("missing after it was put back")
		}
		if _, _, err := Open(dir, boot); !errors.Is(err, ErrLocked) {
			t.Errorf("another one: %v", err)
		}
		want := fmt.Sprintf("after:%d meanwhile:%d web:1 ", i, i)
		b, err := os.ReadFile(j.path)
		must(t, err)
		if h, damage := replay(b); state(plain(h)) != want || len(damage) > 0 {
			t.Errorf("%d: got %q, want %q, damage %v", i, state(plain(h)), want, damage)
		}
	}
	want := state(j.Load())
	must(t, os.RemoveAll(dir))
	other, _ := mustOpen(t, dir, boot) // was faster
	if err := j.Restore(); !errors.Is(err, ErrLocked) {
		t.Errorf("over another one's: %v", err)
	}
	must(t, other.Close())
	must(t, j.Restore())
	must(t, j.Close())
	if got, report := reopen(t, dir, boot); state(got) != want || report.String() != "journal in order" {
		t.Errorf("got %q, want %q; %v", state(got), want, report)
	}
}

// story writes a history and returns the file and what was true after each change, at which length of the file.
func story(t *testing.T) (file []byte, states map[int]string) {
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, boot)
	states = map[int]string{j.size: state(j.Load())}
	for i := range 8 {
		name := fmt.Sprint("w", i%4)
		if i%4 == 3 {
			must(t, j.Delete(fmt.Sprint("w", (i-1)%4)))
		} else {
			must(t, j.Put(workload(name, i)))
		}
		states[j.size] = state(j.Load())
	}
	must(t, j.Close())
	file, err := os.ReadFile(filepath.Join(dir, FileName))
	must(t, err)
	return file, states
}

func plain(h history) map[string]model.Workload {
	m := map[string]model.Workload{}
	for name, e := range h.entries {
		m[name] = e.workload
	}
	return m
}

func state(m map[string]model.Workload) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s:%d ", name, m[name].Process.PID)
	}
	return b.String()
}

// A crash in the middle of a write, at every byte: what is read is the history up to a record, never anything else, and
// the journal goes on from there.
func TestTruncatedAtEveryByteItIsAPrefixOfHistory(t *testing.T) {
	file, states := story(t)
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	want, whole := "", 0
	for n := range len(file) + 1 {
		if s, ok := states[n]; ok {
			want, whole = s, n
		}
		h, _ := replay(file[:n])
		if got := state(plain(h)); got != want {
			t.Fatalf("%d bytes: replayed %q, want %q", n, got, want)
		}
		if n%5 != 0 && n != whole { // every place within some record, at a fifth of the time
			continue
		}
		must(t, os.WriteFile(path, file[:n], 0o600))
		j, report := mustOpen(t, dir, boot)
		if got := state(j.Load()); got != want {
			t.Fatalf("%d bytes: got %q, want %q", n, got, want)
		}
		if whole > 0 && (report.Torn != n-whole || len(report.Damage) > 0) {
			t.Fatalf("%d bytes, whole %d: report %+v", n, whole, report)
		}
		must(t, j.Put(workload("after", 99)))
		must(t, j.Close())
		got, report := reopen(t, dir, boot)
		if state(got) != "after:99 "+want || report.String() != "journal in order" {
			t.Fatalf("%d bytes: after the crash got %q, %v", n, state(got), report)
		}
	}
}

// A record damaged in the middle: the others are read, the loss is counted, the bad file is kept.
func TestADamagedRecordCostsOnlyItself(t *testing.T) {
	file, _ := story(t)
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	var spans []Span
	scanAt := 0
	scan(file, func(r record, raw []byte) error {
		spans = append(spans, Span{scanAt, len(raw)})
		scanAt += len(raw)
		return nil
	})
	for i, span := range spans[:len(spans)-1] {
		for _, at := range []int{0, 4, 8, 12, 13, span.Len - 1} {
			bad := bytes.Clone(file)
			bad[span.Offset+at] ^= 0x41
			must(t, os.WriteFile(path, bad, 0o600))
			want, _ := replay(append(bytes.Clone(file[:span.Offset]), file[span.Offset+span.Len:]...))
			got, report := reopen(t, dir, boot)
			if state(got) != state(plain(want)) {
				t.Errorf("record %d byte %d: got %q, want %q", i, at, state(got), state(plain(want)))
			}
			missing := uint64(1)
			if i == 0 {
				missing = 0 // the head is no change
			}
			if len(report.Damage) != 1 || report.Damage[0] != span || report.Missing != missing || report.Torn != 0 {
				t.Errorf("record %d byte %d at %+v: report %+v", i, at, span, report)
			}
			if kept, err := os.ReadFile(filepath.Join(dir, BadName)); err != nil || !bytes.Equal(kept, bad) {
				t.Errorf("the bad file is not kept: %v", err)
			}
			if again, report := reopen(t, dir, boot); state(again) != state(plain(want)) || report.String() != "journal in order" {
				t.Errorf("again %q, %v", state(again), report)
			}
		}
	}
	t.Log(Report{Damage: spans[1:2], Missing: 1})
}

// Law: over random changes with restarts between them, the journal is what a map would be, and stays small.
func TestTheJournalIsAMap(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, boot)
	want := map[string]model.Workload{}
	rnd := rand.New(rand.NewPCG(1, 2))
	largest := 0
	for i := range 6000 {
		name := fmt.Sprint("w", rnd.IntN(50))
		switch {
		case rnd.IntN(300) == 0:
			must(t, j.Close())
			j, _ = mustOpen(t, dir, boot)
		case rnd.IntN(3) == 0:
			must(t, j.Delete(name))
			delete(want, name)
		default:
			w := workload(name, i)
			must(t, j.Put(w))
			want[name] = w
		}
		largest = max(largest, j.size)
	}
	if got := j.Load(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %s\nwant %s", state(got), state(want))
	}
	live := 0
	for _, e := range j.history.entries {
		live += len(e.record)
	}
	if live != j.history.live || largest > smallest+8<<10 {
		t.Errorf("live bytes %d, counted %d; the file grew to %d", live, j.history.live, largest)
	}
	must(t, j.Close())
	if got, report := reopen(t, dir, boot); !reflect.DeepEqual(got, want) || report.String() != "journal in order" {
		t.Errorf("after reopening %v", report)
	}
}

func FuzzReplay(f *testing.F) {
	b, _ := appendRecord(nil, record{op: opHead, body: []byte(boot)})
	body, _ := encodeWorkload(workload("web", 1))
	b, _ = appendRecord(b, record{op: opPut, generation: 1, body: body})
	b, _ = appendRecord(b, record{op: opDelete, generation: 2, body: []byte("web")})
	f.Add(b, 0, []byte{})
	f.Add(b, 70, []byte(mark))
	f.Add(b, 60, []byte{0, 0xff})
	f.Fuzz(func(t *testing.T, b []byte, at int, over []byte) {
		if at >= 0 && at < len(b) { // damage, so that valid records stand beside
			b = bytes.Clone(b)
			copy(b[at:], over)
		}
		h, damage := replay(b)
		at = 0
		for _, d := range damage {
			if d.Len < 1 || d.Offset < at || d.Offset+d.Len > len(b) {
				t.Fatalf("damage %v in %d bytes", damage, len(b))
			}
			at = d.Offset + d.Len
		}
		out, err := h.encode()
		if err != nil {
			return // a boot id of more than 1 MiB
		}
		again, damage := replay(out)
		if len(damage) != 0 || len(again.entries) != len(h.entries) || again.generation != h.generation {
			t.Fatalf("rewritten: %v, %d entries of %d", damage, len(again.entries), len(h.entries))
		}
	})
}

func BenchmarkPut(b *testing.B) {
	j, _ := mustOpen(b, b.TempDir(), boot)
	w := workload("web", 1)
	for i := range 1000 {
		must(b, j.Put(workload(fmt.Sprint("w", i), i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		must(b, j.Put(w))
	}
}

func BenchmarkPutDelete(b *testing.B) {
	j, _ := mustOpen(b, b.TempDir(), boot)
	w := workload("web", 1)
	for b.Loop() {
		must(b, j.Put(w))
		must(b, j.Delete("web"))
	}
}

// The floor: a write of as many bytes.
func BenchmarkWrite(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "x"))
	must(b, err)
	defer f.Close()
	body, _ := encodeWorkload(workload("web", 1))
	at := int64(0)
	for b.Loop() {
		_, err := f.WriteAt(body, at)
		must(b, err)
		if at += int64(len(body)); at > 1<<20 {
			at = 0
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	w := workload("web", 1)
	for b.Loop() {
		encodeWorkload(w)
	}
}
