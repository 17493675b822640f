package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

func TestLocalKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, t.TempDir()) })
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func network(name string) model.Network {
	return model.Network{Name: name, Mode: model.NAT, Labels: map[string]string{"text": strings.Repeat(name, 100)}}
}

// fill leaves a closed store of some pages, with free ones among them.
func fill(t testing.TB, dir string) {
	t.Helper()
	s := open(t, dir)
	for round := range 3 {
		var changes []store.Change
		for i := range 60 {
			n := network(fmt.Sprint("n", i))
			n.MTU = round
			changes = append(changes, store.PutNetwork(n, store.Any))
		}
		if _, err := s.Write(t.Context(), append(changes, store.Delete(store.Network, fmt.Sprint("n", round), store.Any))...); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestEverythingIsThereAfterReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	fill(t, dir)
	first := open(t, dir)
	snap, err := first.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	networks, err := snap.Networks()
	if err != nil || len(networks) != 59 || networks["n7"].MTU != 2 {
		t.Errorf("%d networks, %v, %v", len(networks), networks["n7"], err)
	}
	first.Close()
	again, err := open(t, dir).Load(t.Context())
	if err != nil || again.Token != snap.Token || again.Version(store.Network, "n7") != snap.Version(store.Network, "n7") {
		t.Errorf("token %q, then %q", snap.Token, again.Token)
	}
	info, err := os.Stat(filepath.Join(dir, FileName))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNoVersionComesTwiceAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	seen := map[store.Version]bool{}
	for range 4 {
		s := open(t, dir)
		objects, err := s.Write(t.Context(), store.PutNetwork(network("a"), store.New))
		if err != nil || seen[objects[0].Version] {
			t.Fatalf("%v, %v of %v", err, objects[0].Version, seen)
		}
		seen[objects[0].Version] = true
		if _, err := s.Write(t.Context(), store.Delete(store.Network, "a", store.Any)); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

func TestOneObjectChangedTwiceInOneCall(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	b := network("a")
	b.MTU = 1400
	if _, err := s.Write(t.Context(), store.PutNetwork(network("a"), store.New), store.PutNetwork(b, store.Any), store.PutSysctl("x", "1"), store.Delete(store.Sysctl, "x", store.Any)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	snap, err := open(t, dir).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	networks, err := snap.Networks()
	if err != nil || networks["a"].MTU != 1400 || len(snap.Names(store.Sysctl)) != 0 {
		t.Errorf("%v, %v, %v", networks, snap.Names(store.Sysctl), err)
	}
}

func TestASecondDaemonIsToldWhoHasTheStore(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := Open(dir)
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || !strings.Contains(err.Error(), fmt.Sprintf("another flatnetd (pid %d) uses it", os.Getpid())) {
		t.Errorf("got %v", err)
	}
}

func TestADirectoryThatCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var pathErr *fs.PathError
	if _, err := Open(filepath.Join(dir, "file", "state")); !errors.As(err, &pathErr) {
		t.Errorf("got %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, FileName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("a directory is taken for the file")
	}
}

// Damage of any kind, over the whole file: opening either says that the file is damaged and leaves it, or everything read
// is right and can be written; it never panics and never loses an object silently.
func TestDamageIsNoticed(t *testing.T) {
	pristine := filepath.Join(t.TempDir(), "pristine")
	fill(t, pristine)
	good, err := os.ReadFile(filepath.Join(pristine, FileName))
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(rnd *rand.Rand, b []byte) []byte{
		"bit": func(rnd *rand.Rand, b []byte) []byte { b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8); return b },
		"bytes": func(rnd *rand.Rand, b []byte) []byte {
			i := rnd.IntN(len(b) - 8)
			copy(b[i:], "\xff\xff\xff\xff\xff\xff\xff\xff")
			return b
		},
		"page": func(rnd *rand.Rand, b []byte) []byte {
			i := rnd.IntN(len(b)/4096) * 4096
			clear(b[i : i+4096])
			return b
		},
		"noise": func(rnd *rand.Rand, b []byte) []byte {
			for range 200 {
				b[rnd.IntN(len(b))] = byte(rnd.Uint32())
			}
			return b
		},
		"head": func(rnd *rand.Rand, b []byte) []byte {
			i := rnd.IntN(len(b)/4096) * 4096
			b[i+rnd.IntN(48)] = byte(rnd.Uint32())
			return b
		},
		"swap": func(rnd *rand.Rand, b []byte) []byte {
			i, j := rnd.IntN(len(b)/4096)*4096, rnd.IntN(len(b)/4096)*4096
			x := bytes.Clone(b[i : i+4096])
			copy(b[i:i+4096], b[j:j+4096])
			copy(b[j:j+4096], x)
			return b
		},
		"truncate": func(rnd *rand.Rand, b []byte) []byte { return b[:rnd.IntN(len(b))] },
		"zero":     func(rnd *rand.Rand, b []byte) []byte { clear(b); return b },
		"empty":    func(rnd *rand.Rand, b []byte) []byte { return nil },
		"text":     func(rnd *rand.Rand, b []byte) []byte { return []byte("networks: []\n") },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			noticed := 0
			const rounds = 30
			for seed := range uint64(rounds) {
				bad := damage(rand.New(rand.NewPCG(seed, 7)), bytes.Clone(good))
				if openDamaged(t, bad, seed) {
					noticed++
				}
			}
			t.Logf("noticed %d of %d", noticed, rounds)
			if always := name == "zero" || name == "empty" || name == "text"; always && noticed != rounds {
				t.Error("not always noticed")
			}
		})
	}
}

func openDamaged(t *testing.T, bad []byte, seed uint64) (noticed bool) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		var damaged *DamagedError
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("seed %d: got %v", seed, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, bad) {
			t.Errorf("seed %d: the bad file was changed: %v", seed, err)
		}
		return true
	}
	defer s.Close()
	snap, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	networks, err := snap.Networks()
	// One of the two heads may be lost: then it is the state before the last change.
	if err != nil || len(networks) != 59 || networks["n7"].MTU < 1 || networks["n7"].Labels["text"] != strings.Repeat("n7", 100) {
		t.Errorf("seed %d: %d networks, %v, n7 %+v", seed, len(networks), err, networks["n7"])
	}
	if _, err := s.Write(t.Context(), store.PutNetwork(network("more"), store.Any), store.Delete(store.Network, "n9", store.Any)); err != nil {
		t.Logf("seed %d: write: %v", seed, err)
	}
	return false
}

// A kill -9 at any moment keeps what Write had returned for: the child prints each number when its Write returns.
func TestWhatWasWrittenSurvivesAKill(t *testing.T) {
	if dir := os.Getenv("FLATNET_STORE_CHILD"); dir != "" {
		writeForever(dir)
	}
	dir := t.TempDir()
	for round := range 5 {
		child := exec.Command(os.Args[0], "-test.run=^TestWhatWasWrittenSurvivesAKill$")
		child.Env = append(os.Environ(), "FLATNET_STORE_CHILD="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		acknowledged := 0
		for lines.Scan() {
			if _, err := fmt.Sscanf(lines.Text(), "%d", &acknowledged); err != nil {
				t.Fatalf("child said %q", lines.Text())
			}
			if acknowledged == 10*(round+1)+round {
				child.Process.Kill()
			}
		}
		child.Wait()
		s := open(t, dir)
		snap, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		networks, err := snap.Networks()
		if got := networks["a"].MTU; err != nil || got < acknowledged || got > acknowledged+1 {
			t.Errorf("round %d: %d was acknowledged, %d is there, %v", round, acknowledged, got, err)
		}
		if _, err := s.Write(t.Context(), store.Delete(store.Network, "a", store.Any)); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

func writeForever(dir string) {
	s, err := Open(dir)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := 1; ; i++ {
		n := network("a")
		n.MTU = i
		if _, err := s.Write(context.Background(), store.PutNetwork(n, store.Any)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(i)
	}
}

func BenchmarkPut(b *testing.B) {
	s := open(b, b.TempDir())
	n := network("a")
	for b.Loop() {
		n.MTU++
		if _, err := s.Write(b.Context(), store.PutNetwork(n, store.Any)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkThousandForwardsInOneCall(b *testing.B) {
	s := open(b, b.TempDir())
	for b.Loop() {
		var puts, deletes []store.Change
		for p := range uint16(1000) {
			f := model.Forward{Network: "lab", Workload: "web", Proto: model.TCP, HostPorts: model.Ports{First: 8000 + p, Last: 8000 + p}, Ports: model.Ports{First: 80, Last: 80}}
			puts = append(puts, store.PutForward(f, store.New))
			deletes = append(deletes, store.Delete(store.Forward, f.Name(), store.Any))
		}
		if _, err := s.Write(b.Context(), puts...); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Write(b.Context(), deletes...); err != nil {
			b.Fatal(err)
		}
	}
}
