package nft

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

var update = flag.Bool("update", false, "write golden files")

func TestEverythingAppliedIsObserved(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	want := state(t, sample(3)...)
	become(t, c, want)
	apply(t, c, dataplane.Diff(want, dataplane.State{})) // once more
	same(t, want, observe(t, c))
	become(t, c, dataplane.State{})
}

// TestPeopleCanReadIt compares what `nft list ruleset` prints, which differs between versions of nft.
func TestPeopleCanReadIt(t *testing.T) {
	const path = "testdata/ruleset.txtar"
	newNetns(t)
	c := newConn(t)
	apply(t, c, dataplane.Diff(state(t, sample(3)...), dataplane.State{}))
	got := &txtar.Archive{
		Comment: []byte(nftCLI(t, "--version")),
		Files: []txtar.File{
			{Name: "nft list ruleset", Data: []byte(nftCLI(t, "list", "ruleset"))},
		},
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want.Comment, got.Comment) {
		t.Logf("golden of %s not compared with %s", bytes.TrimSpace(want.Comment), bytes.TrimSpace(got.Comment))
		return
	}
	for i, f := range got.Files {
		if i >= len(want.Files) || !bytes.Equal(f.Data, want.Files[i].Data) {
			t.Errorf("%s differs from %s (-update writes it):\n%s", f.Name, path, f.Data)
		}
	}
}

// TestRulesAreToldApart: the expressions of one rule never pass for another.
func TestRulesAreToldApart(t *testing.T) {
	rules := sampleRules()
	for _, a := range rules {
		var w nfnl.Writer
		if err := writeRule(&w, a); err != nil {
			t.Fatal(err)
		}
		for _, b := range rules {
			b.Chain, b.Pos, b.Comment = a.Chain, a.Pos, a.Comment
			if got := actsAs(w.Written(), b); got != (a == b) && a.Match != b.Match {
				t.Errorf("%s passes for %s", a, b)
			}
		}
	}
}

// TestManyElements: a thousand forwards and more in one transaction, and back.
func TestManyElements(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	base := state(t, sample(0)...)
	become(t, c, base)
	many := base.Clone()
	for n := range 5000 {
		put(t, many, element(dnat4, n))
		put(t, many, element(ranges4, n))
	}
	become(t, c, many)
	moved := many.Clone()
	for n := range 5000 {
		if e := element(dnat4, n); rand.IntN(2) == 0 {
			to := e.Value()
			to.Port = 7
			moved[e.Key()] = e.To(to)
		}
	}
	become(t, c, moved)
	become(t, c, base)
}

func TestGeneration(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	generation := func() uint32 {
		g, err := c.Generation(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	before := generation()
	observe(t, c)
	if generation() != before {
		t.Error("reading changes the generation")
	}
	nftCLI(t, "add table ip other")
	if generation() == before {
		t.Error("a change leaves the generation as it was")
	}
}

// TestObserveWhileOthersChange has somebody else write all the time.
func TestObserveWhileOthersChange(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	want := state(t, sample(200)...)
	become(t, c, want)
	script := "add table ip busy\n" + strings.Repeat("add chain ip busy x\ndelete chain ip busy x\n", 3)
	for range 20 {
		done := make(chan dataplane.State)
		go func() {
			s, err := c.Observe(ctx(t), true)
			if err != nil {
				t.Error(err)
			}
			done <- s
		}()
		nftCLI(t, script)
		same(t, want, <-done)
	}
}

func BenchmarkThousandElements(b *testing.B) {
	t := &testing.T{}
	newNetns(t)
	c := newConn(t)
	base := state(t, sample(0)...)
	many := base.Clone()
	for n := range 1000 {
		put(t, many, element(dnat4, n))
	}
	apply(t, c, dataplane.Diff(base, dataplane.State{}))
	there, back := dataplane.Diff(many, base), dataplane.Diff(base, many)
	var add, del, obs time.Duration
	for b.Loop() {
		start := time.Now()
		apply(t, c, there)
		added := time.Now()
		if _, err := c.Observe(ctx(t), true); err != nil {
			b.Fatal(err)
		}
		observed := time.Now()
		apply(t, c, back)
		add, obs, del = add+added.Sub(start), obs+observed.Sub(added), del+time.Since(observed)
	}
	b.ReportMetric(add.Seconds()*1000/float64(b.N), "ms/add")
	b.ReportMetric(del.Seconds()*1000/float64(b.N), "ms/del")
	b.ReportMetric(obs.Seconds()*1000/float64(b.N), "ms/observe")
}

func BenchmarkOneElement(b *testing.B) {
	t := &testing.T{}
	newNetns(t)
	c := newConn(t)
	apply(t, c, dataplane.Diff(state(t, sample(1)...), dataplane.State{}))
	e := element(dnat4, 9)
	for b.Loop() {
		apply(t, c, dataplane.Plan{{Op: dataplane.Add, Object: e}})
		apply(t, c, dataplane.Plan{{Op: dataplane.Del, Object: e}})
	}
}
