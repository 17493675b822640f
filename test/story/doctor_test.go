package story_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/test/rig"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write golden files")

// The faults of the tutorials, a file each in testdata/doctor. What a section says is typed in a shell on the host, where
// workloads a and b are attached to the network default, $NS1 and $NS2 are namespaces made with `ip netns add`, $HIDDEN is
// the PID of a process in one that has no name, and $ROUTER that of the router 192.0.2.1, beyond which 203.0.113.80 is:
//
//	setup    before the fault; may be missing
//	traffic  works before the fault, not with it, and again after the fix
//	seed     the fault, in the tutorials' words
//	doctor   what `flatnet doctor` prints then
//	fix      the codes whose printed fixes are typed as they stand; nothing: flatnet itself has repaired it, and the traffic goes on
//	cure     where the fix is no command on this host: what helps elsewhere
//	forget   after the fix, where neighbours would believe for half a minute what they heard last
func TestDoctor(t *testing.T) {
	paths, err := filepath.Glob("testdata/doctor/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { testDoctor(t, path) })
	}
}

func testDoctor(t *testing.T, path string) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	section := func(name string) string {
		for _, f := range ar.Files {
			if f.Name == name {
				return string(f.Data)
			}
		}
		return ""
	}
	c := newClinic(t)
	c.must(section("setup"))
	traffic, codes := section("traffic"), strings.Fields(section("fix"))
	c.Eventually("traffic before the fault", func() bool { return c.try(traffic) == nil })
	c.must(section("seed"))
	if len(codes) == 0 {
		c.Eventually("traffic goes on", func() bool { return c.try(traffic) == nil })
	} else {
		c.Eventually("the fault is felt", func() bool { return c.try(traffic) != nil })
	}
	findings, got := c.doctor()
	if *update {
		for i := range ar.Files {
			if ar.Files[i].Name == "doctor" {
				ar.Files[i].Data = []byte(got)
			}
		}
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := section("doctor"); got != want && !*update {
		t.Errorf("%s (-update writes it): got\n%s\nwant\n%s", path, got, want)
	}
	if cure := section("cure"); cure != "" {
		c.must(cure)
		codes = nil
	}
	for _, code := range codes {
		c.fix(findings, code)
	}
	c.must(section("forget"))
	c.Eventually("traffic after the fix", func() bool { return c.try(traffic) == nil })
	for _, f := range first(c.doctor()) {
		if slices.Contains(codes, f.Code) {
			t.Errorf("after its fix still there: %s %s", f.Code, f.What)
		}
	}
}

func first[A, B any](a A, _ B) A { return a }

// clinic is a host with two workloads, and a shell on it.
type clinic struct {
	*rig.Host
	t   *testing.T
	env string
}

func newClinic(t *testing.T) clinic {
	o := newOffice(t)
	one, two := o.Machine("ns1"), o.Machine("ns2")
	for _, name := range []string{"iptables", "ip6tables", "arptables"} { // not there without br_netfilter
		_, _ = o.host.Try("sh", "-c", "echo 0 > /proc/sys/net/bridge/bridge-nf-call-"+name)
	}
	hidden := exec.Command("unshare", "--net", "sleep", "1000")
	if err := o.host.Start(hidden); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hidden.Process.Kill(); hidden.Wait() })
	h := rig.New(t, o.host)
	programs := filepath.Dir(rig.Program(t, "flatnet"))
	env := fmt.Sprintf("export PATH=%s:$PATH FLATNET_SOCKET=%s NS1=%s NS2=%s ROUTER=%s HIDDEN=%d\n", programs, h.Socket, one.Netns, two.Netns, o.router.Netns, hidden.Process.Pid)
	c := clinic{h, t, env}
	c.must("flatnet run -d --name a -- sleep 1000; flatnet run -d --name b -- sleep 1000")
	return c
}

func (c clinic) shell(script string) (string, error) {
	return c.Machine.Try("sh", "-ec", c.env+script)
}

func (c clinic) must(script string) {
	c.t.Helper()
	if out, err := c.shell(script); err != nil {
		c.t.Fatalf("%v: %s\n%s", err, out, script)
	}
}

func (c clinic) try(script string) error {
	_, err := c.shell(script)
	return err
}

// doctor is what flatnet finds, and how it prints that, less what differs from one run or kernel to the next.
func (c clinic) doctor() ([]api.Finding, string) {
	c.t.Helper()
	findings, err := c.Client().Doctor(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := c.shell("flatnet doctor")
	status := 0
	if exit, ok := err.(*exec.ExitError); ok {
		status = exit.ExitCode()
	}
	out = unstableDoctor(c.Dir, out)
	return findings, fmt.Sprintf("%s[%d]\n", out, status)
}

func unstableDoctor(dir, out string) string {
	for pattern, to := range map[string]string{
		`\d\d:\d\d:\d\d UTC`: "HH:MM:SS UTC", `\d+ (s|min) ago`: "N s ago", regexp.QuoteMeta(dir): "DIR", `kt\d+-`: "", `fd[0-9a-f]{2}:[0-9a-f]{1,4}:[0-9a-f]{1,4}::`: "fdNN::", `nft\[\d+\]`: "nft[PID]", `(?m)^note FN5005.*\n`: "",
	} {
		out = regexp.MustCompile(pattern).ReplaceAllString(out, to)
	}
	return out
}

// consent is where a command would ask.
var consent = regexp.MustCompile(`flatnet (doctor|net set)`)

// fix types what doctor printed.
func (c clinic) fix(findings []api.Finding, code string) {
	c.t.Helper()
	typed := false
	for _, f := range findings {
		if f.Code == code && f.Fix != "" {
			c.must(consent.ReplaceAllString(f.Fix, "$0 -y"))
			typed = true
		}
	}
	if !typed {
		c.t.Errorf("no fix of %s to type", code)
	}
}
