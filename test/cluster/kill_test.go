package cluster_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/test/rig"
)

// killedDuring carries a command out on host n, and kills its daemon with -9 after a while; then it starts it again.
func (o *office) killedDuring(n int, after time.Duration, args ...string) {
	o.Helper()
	cmd := exec.Command(rig.Program(o.T, "flatnet"), args...)
	cmd.Env = []string{"FLATNET_SOCKET=" + o.h(n).Socket}
	if err := o.h(n).Machine.Start(cmd); err != nil {
		o.Fatal(err)
	}
	time.Sleep(after)
	o.h(n).Kill()
	_ = cmd.Wait()
	o.h(n).Start()
}

// repeated carries a command out until it succeeds, or fails with what says that it is done.
func (o *office) repeated(n int, done string, args ...string) {
	o.Helper()
	var out string
	var err error
	for end := time.Now().Add(rig.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if out, err = o.h(n).Try(args...); err == nil || strings.Contains(out, done) {
			return
		}
	}
	o.Fatalf("h%d: flatnet %s: %v\n%s", n, strings.Join(args, " "), err, out)
}

// An init takes about a second, most of which etcd needs to elect itself; a join and a leave take some tenths.
func TestInitKilledAnywhereConverges(t *testing.T) {
	o := newOffice(t, 2)
	for _, ms := range []int{5, 20, 60, 200, 600, 1000, 1100, 1200, 1300, 1500} {
		o.killedDuring(1, time.Duration(ms)*time.Millisecond, "init", "-y", "--name", "h1")
		o.repeated(1, "in a cluster already", "init", "-y", "--name", "h1")
		o.sees(1, "h1:alive")
		o.join(2, o.joinLine(o.h(1).Flatnet("token", "create")))
		o.sees(2, "h1:alive h2:alive")
		o.h(2).Flatnet("leave", "-y")
		o.h(1).Flatnet("leave", "-y")
		o.outside(1)
	}
}

func TestJoinAndLeaveKilledAnywhereCanBeRepeated(t *testing.T) {
	o := newOffice(t, 2)
	line := append(o.begin(), "--name", "h2")
	for i, ms := range []int{2, 10, 20, 40, 60, 80, 100, 130, 160, 200, 250, 300} {
		o.killedDuring(2, time.Duration(ms)*time.Millisecond, line...)
		o.repeated(2, "in a cluster already", line...)
		o.sees(2, "h1:alive h2:alive")
		o.killedDuring(2, time.Duration(ms)*time.Millisecond, "leave", "-y")
		o.repeated(2, "in no cluster", "leave", "-y")
		o.outside(2)
		o.sees(1, "h1:alive")
		if i%3 == 2 {
			line = append(o.joinLine(o.h(1).Flatnet("token", "create")), "--name", "h2")
		}
	}
}

// A server that is killed while others join lets none of them in twice, and all in the end.
func TestServerKilledWhileHostsJoin(t *testing.T) {
	o := newOffice(t, 3)
	line := o.begin()
	for _, ms := range []int{30, 120} {
		done := make(chan string, 2)
		for n := 2; n <= 3; n++ {
			args := append(slices.Clone(line), "--name", fmt.Sprint("h", n))
			go func() {
				out, _ := o.h(n).Try(args...)
				done <- out
			}()
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
		o.h(1).Kill()
		o.h(1).Start()
		<-done
		<-done
		for n := 2; n <= 3; n++ {
			o.repeated(n, "in a cluster already", append(slices.Clone(line), "--name", fmt.Sprint("h", n))...)
		}
		o.sees(1, "h1:alive h2:alive h3:alive")
		for n := 2; n <= 3; n++ {
			o.h(n).Flatnet("leave", "-y")
		}
	}
	has(t, o.h(1).Flatnet("token", "ls"), "4 of 10")
}

// A server that is away for a moment hears all the same that a host leaves: else nobody could have its address, not even itself.
func TestAHostLeavesWhileTheServerIsStartedAgain(t *testing.T) {
	o := newOffice(t, 2)
	line := append(o.begin(), "--name", "h2")
	o.h(2).Flatnet(line...)
	o.sees(2, "h1:alive h2:alive")
	o.h(1).Kill()
	left := make(chan string, 1)
	go func() {
		out, _ := o.h(2).Try("leave", "-y")
		left <- out
	}()
	time.Sleep(500 * time.Millisecond)
	o.h(1).Start()
	<-left
	o.outside(2)
	o.h(2).Flatnet(line...)
	o.sees(1, "h1:alive h2:alive")
}

// Damaged keys cost a host its word with the cluster, not its workloads their way: what it knew holds. A server makes most of them again.
func TestDamagedKeysDoNotStopTraffic(t *testing.T) {
	o := newOffice(t, 2)
	line := append(o.begin(), "--name", "h2")
	o.h(2).Flatnet(line...)
	o.sees(1, "h1:alive h2:alive")
	ways := func(n int) int {
		out, err := exec.Command("nsenter", "--net="+o.h(n).Machine.Path, "ip", "route", "show", "proto", "157").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(out), "dev fx-")
	}
	o.h(2).Eventually("a way to h1", func() bool { return ways(2) == 1 })
	damage := func(n int, file string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(o.folder(n), file), []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		o.h(n).Kill()
		o.h(n).Start()
	}
	for _, file := range []string{"server.key", "server.pem", "node.pem"} {
		damage(1, file)
		o.sees(1, "h1:alive h2:alive")
	}
	damage(2, "node.pem")
	o.refused(2, "FN3004", "node.pem", "host", "ls")
	if n := ways(2); n != 1 {
		t.Errorf("h2 has %d ways", n)
	}
	o.h(2).Flatnet(line...) // a new certificate, for the same key
	o.sees(2, "h1:alive h2:alive")
	damage(2, "node.key")
	o.refused(2, "FN3004", "node.key", "host", "ls")
	if n := ways(2); n != 1 {
		t.Errorf("h2 has %d ways", n)
	}
	record := filepath.Join(o.folder(2), "member.json")
	good, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"garbage", ""} {
		if err := os.WriteFile(record, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		o.h(2).Kill()
		log := filepath.Join(o.h(2).Dir, "flatnetd.log")
		said := func() int {
			text, _ := os.ReadFile(log)
			return strings.Count(string(text), "this host's place in its cluster cannot be read")
		}
		before := said()
		o.h(2).StartOnly()
		o.h(2).Eventually("flatnetd says why it does not start", func() bool { return said() > before })
		if n := ways(2); n != 1 {
			t.Errorf("with %q for its record h2 has %d ways", bad, n)
		}
	}
	if err := os.WriteFile(record, good, 0o600); err != nil {
		t.Fatal(err)
	}
	o.h(2).Kill()
	o.h(2).Start()
	o.h(2).Flatnet("leave", "-y", "--force")
	o.outside(2)
	if n := ways(2); n != 0 {
		t.Errorf("outside, h2 has %d ways", n)
	}
}
