package fail_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/lab"
)

// newer is a flatnetd that writes and reads one schema more than ours.
func newer(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	codec := filepath.Join(strings.TrimSpace(string(root)), "internal", "store", "codec.go")
	text, err := os.ReadFile(codec)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := "const Schema = 1\n", "const Schema = 2\n"
	if strings.Count(string(text), ours) != 1 {
		t.Fatalf("%s does not say %q", codec, ours)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, "codec.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), ours, theirs, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {codec: changed}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "flatnetd")
	build := exec.Command("go", "build", "-overlay", list, "-o", program, "github.com/flatnet/flatnet/cmd/flatnetd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the newer flatnetd: %v\n%s", err, out)
	}
	return program
}

// A cluster is upgraded host by host, the server in the midst, under traffic: what the newer ones write the older ones read, as long as
// there are any.
func TestNewerAndOlderSideBySide(t *testing.T) {
	program := newer(t)
	s := newSite(t, lab.Spec{Hosts: hosts(3)})
	flows := s.mesh()
	upgrade := func(n int) {
		h := s.h(n)
		h.Upgrade(program)
		s.must(h.Kill9())
		s.must(h.Start(t.Context()))
		s.settled(n)
	}
	change := func(backend string) {
		s.flatnet(1, "net", "set", "cluster", "--backend", backend)
		for n := 1; n <= 3; n++ {
			s.within(20*time.Second, "every host has heard of "+backend, func() bool { return s.network(n).Spec.Cluster.Backend == backend })
		}
	}
	t.Log("a newer node among older ones")
	upgrade(2)
	change("host-gw")
	t.Log("a newer server, and one older node")
	upgrade(1)
	change("vxlan")
	s.eventually("the older node sees all", func() bool { return strings.Count(s.flatnet(3, "host", "ls"), "alive") == 3 })
	t.Log("all are newer")
	upgrade(3)
	change("host-gw")
	s.lossless("three upgrades and three changes of the backend", 100, flows...)
}
