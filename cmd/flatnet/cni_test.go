package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/api/conflist"
	"golang.org/x/sys/unix"
)

// fixedCNIStatus is a daemon that has three containers' links, and a network that is full.
func fixedCNIStatus(r *http.Request, _ []byte) any {
	s := api.CNIStatus{Ready: true, Attachments: 3, Socket: "/run/flatnet/attach.sock", Network: "lab"}
	for _, name := range r.URL.Query()["network"] {
		switch name {
		case "full":
			s.Ready, s.Problems = false, []api.Problem{{Code: "FN2109", Reason: "network \"full\": no address is free in 10.8.0.0/30", Fix: "give it a larger subnet"}}
		case "second":
			s.Socket = "/run/second/attach.sock"
		}
	}
	return s
}

// oldConf is what stands before flatnet comes.
const (
	oldConf  = "net.d/05-bridge.conflist"
	oldPlace = oldConf + asideSuffix
)

// died ends a command as kill -9 does: nothing of it runs any more.
type died struct{}

// cniDir is a directory with a runtime's files, in which the commands run.
type cniDir struct {
	t      *testing.T
	socket string
}

func newCNIDir(t *testing.T) cniDir {
	_, socket := startFake(t)
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{oldConf: `{"cniVersion": "1.0.0", "name": "lab", "type": "bridge"}`, "flatnet-cni": "github.com/flatnet/flatnet/cmd/flatnet-cni 2", "bin/loopback": "x"} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cniDir{t, socket}
}

// run is a command that dies at its nth effect; it reports whether it lived.
func (d cniDir) run(nth int, args ...string) (lived bool) {
	var out bytes.Buffer
	a := testApp(d.socket, &out, &out)
	a.disk.before = func() {
		if nth--; nth < 0 {
			panic(died{})
		}
	}
	defer func() {
		if r := recover(); r != nil && r != (died{}) {
			panic(r)
		}
	}()
	if code := a.main(context.Background(), append([]string{"cni"}, append(args, "--conf-dir", "net.d", "--bin-dir", "bin")...)); code != 0 {
		d.t.Errorf("flatnet cni %v: exit %d\n%s", args, code, &out)
	}
	return true
}

// files are all there are, with their content.
func (d cniDir) files() string {
	var b strings.Builder
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s: %s\n", path, text)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return b.String()
}

// sound holds at any moment: a runtime finds whole configurations, one at least, and behind ours the whole plugin.
func (d cniDir) sound(when string) {
	d.t.Helper()
	files, err := confFiles("net.d")
	if err != nil || len(files) == 0 {
		d.t.Errorf("%s: %d configurations, %v", when, len(files), err)
	}
	for _, f := range files {
		if f.err != nil {
			d.t.Errorf("%s: %s: %v", when, f.path, f.err)
		}
		if _, is := f.list.Flatnet(); !is {
			continue
		}
		if plugin, err := os.ReadFile("bin/flatnet"); err != nil || !isPlugin(plugin) {
			d.t.Errorf("%s: %s names a plugin that is not there: %q, %v", when, f.path, plugin, err)
		}
	}
}

// Killed before any of its effects, install and uninstall leave a runtime whole files; the next install, or uninstall, leaves what an undisturbed
// one does.
func TestCNIInstallSurvivesKills(t *testing.T) {
	install, uninstall := []string{"install", "--replace", oldConf}, []string{"uninstall", "--plugin-too"}
	begin := newCNIDir(t)
	before := begin.files()
	begin.run(100, install...)
	installed := begin.files()
	for _, c := range []struct {
		name          string
		first, killed []string
	}{{"a first install", nil, install}, {"an uninstall", install, uninstall}} {
		t.Run(c.name, func(t *testing.T) {
			for n := 0; ; n++ {
				d := newCNIDir(t)
				if c.first != nil {
					d.run(100, c.first...)
				}
				lived := d.run(n, c.killed...)
				d.sound(fmt.Sprintf("killed before effect %d", n))
				d.run(100, install...)
				if got := d.files(); got != installed {
					t.Errorf("killed before effect %d, then installed:\n%s\nwant\n%s", n, got, installed)
				}
				d.run(100, uninstall...)
				if got := d.files(); got != before {
					t.Errorf("killed before effect %d, then uninstalled:\n%s\nwant\n%s", n, got, before)
				}
				if lived {
					if n < 3 {
						t.Errorf("only %d effects were met", n)
					}
					return
				}
			}
		})
	}
}

// A file that is being written is none to a runtime.
func TestUnfinishedFilesAreNoConfigurations(t *testing.T) {
	if name := unfinished("net.d"); conflist.IsConfig(name) {
		t.Errorf("%s is one", name)
	}
}

// An uninstall of one daemon leaves what brings containers to another: that of the usual place here, as the fake's is.
func TestUninstallLeavesAnotherDaemonsRuntimes(t *testing.T) {
	d := newCNIDir(t)
	other := conflist.Settings{Name: "second", Socket: "/run/second/attach.sock"}
	if err := os.WriteFile("net.d/10-second.conflist", other.Text(), 0o644); err != nil {
		t.Fatal(err)
	}
	d.run(100, "install", "--replace", oldConf)
	var out bytes.Buffer
	a := testApp(d.socket, &out, &out)
	a.cni = cniPlaces{confDirs: []string{"net.d"}, binDirs: []string{"bin"}}
	if code := a.main(context.Background(), []string{"uninstall", "-y"}); code != 0 {
		t.Fatalf("exit %d:\n%s", code, &out)
	}
	left := d.files()
	for name, there := range map[string]bool{"net.d/10-flatnet.conflist": false, "net.d/10-second.conflist": true, "bin/flatnet": true, oldPlace: true} {
		if strings.Contains(left, name+": ") != there {
			t.Errorf("%s is there: %v, want %v:\n%s", name, !there, there, left)
		}
	}
}

// Who is not root hears of it before anything is half done. The command runs on a thread that is nobody's.
func TestUninstallByNobodyDoesNothing(t *testing.T) {
	d := newCNIDir(t)
	d.run(100, "install", "--replace", oldConf)
	before := d.files()
	var out bytes.Buffer
	status := make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the function
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			t.Error(errno)
		}
		status <- testApp(d.socket, &out, &out).main(context.Background(), []string{"cni", "uninstall", "--conf-dir", "net.d", "--bin-dir", "bin"})
	}()
	if code := <-status; code != api.ExitNotPermitted || !strings.Contains(out.String(), "FN4001") || strings.Contains(out.String(), "removed") {
		t.Errorf("exit %d:\n%s", code, &out)
	}
	if after := d.files(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
