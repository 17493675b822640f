package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"golang.org/x/sys/unix"
)

// edited runs net edit with an editor that is a shell script, "$1" being the file, and returns what was said and asked.
func edited(t *testing.T, script string, flags ...string) (stdout, stderr string, asked []string, code int) {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	editor := filepath.Join(t.TempDir(), "editor")
	write(t, editor, "#!/bin/sh\n"+script)
	if err := os.Chmod(editor, 0o755); err != nil {
		t.Fatal(err)
	}
	d, socket := startFake(t)
	var out, errs bytes.Buffer
	a := testApp(socket, &out, &errs)
	env := a.getenv
	a.getenv = func(k string) string {
		if k == "EDITOR" {
			return editor
		}
		return env(k)
	}
	code = a.main(context.Background(), append([]string{"net", "edit", "lab"}, flags...))
	for _, q := range d.takeAsked() {
		if !strings.HasPrefix(q, "GET ") {
			asked = append(asked, q)
		}
	}
	return out.String(), errs.String(), asked, code
}

// left are the files that an edit left behind.
func left(t *testing.T) []string {
	files, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "flatnet-*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestNetEdit(t *testing.T) {
	out, _, asked, code := edited(t, `sed -i 's/mode: host-only/mode: routed/; $a\  mtu: 1400' "$1"`, "--renumber")
	if code != 0 || out != "lab\n" || len(asked) != 2 || asked[1] != `POST /v1/networks/lab/edit?renumber=true {"mode":"routed","mtu":1400}` {
		t.Errorf("exit %d, said %q, asked %q", code, out, asked)
	}
	if files := left(t); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
	for name, script := range map[string]string{"unchanged": "true", "empty": `: > "$1"`, "only comments": `echo "# more" >> "$1"`} {
		out, said, asked, code := edited(t, script)
		if code != 0 || out != "" || len(asked) != 0 || !strings.Contains(said, "nothing was changed") || len(left(t)) > 0 {
			t.Errorf("%s: exit %d, said %q %q, asked %q, left %v", name, code, out, said, asked, left(t))
		}
	}
}

// What is wrong is shown on top of the file, and the editor opens again.
func TestNetEditIsTriedAgain(t *testing.T) {
	again := `
n=$(cat "$TMPDIR/n" 2>/dev/null || echo 0); echo $((n+1)) > "$TMPDIR/n"
cp "$1" "$TMPDIR/seen$n"
case $n in
0) echo '  mtu: 1' >> "$1";;
1) sed -i 's/mtu: 1$/mtu: big/' "$1";;
2) sed -i 's/mtu: big/mut: 1400/' "$1";;
3) sed -i 's/name: lab/name: other/; s/mut: 1400/mtu: 1400/' "$1";;
4) sed -i 's/name: other/name: lab/' "$1";;
esac`
	out, _, asked, code := edited(t, again)
	if code != 0 || out != "lab\n" || asked[len(asked)-1] != `POST /v1/networks/lab/edit {"mtu":1400}` {
		t.Errorf("exit %d, said %q, asked %q", code, out, asked)
	}
	for n, want := range map[int]string{1: "# error FN1301: MTU 1", 2: "# error FN1001: want a whole number", 3: `no field "mut"`, 4: "a network keeps its name"} {
		seen, err := os.ReadFile(filepath.Join(os.Getenv("TMPDIR"), fmt.Sprintf("seen%d", n)))
		if err != nil || !strings.Contains(string(seen), want) || strings.Count(string(seen), "# error") != 1 {
			t.Errorf("the editor showed at time %d:\n%s\nwant %q", n, seen, want)
		}
	}
	_, said, asked, code := edited(t, `grep -q 'mtu: 1' "$1" || echo '  mtu: 1' >> "$1"`)
	if files := left(t); code == 0 || len(asked) != 1 || len(files) != 1 || !strings.Contains(said, "kept in "+files[0]) {
		t.Errorf("given up after an error: exit %d, said %q, asked %q, left %v", code, said, asked, files)
	}
}

// An editor that fails before it changed anything leaves nothing to be kept.
func TestAnEditorThatFails(t *testing.T) {
	_, said, asked, code := edited(t, "exit 3")
	if files := left(t); code == 0 || len(asked) > 0 || len(files) > 0 || !strings.Contains(said, "ended with exit status 3, so nothing was changed") || strings.Contains(said, "kept") {
		t.Errorf("unchanged: exit %d, said %q, asked %q, left %v", code, said, asked, files)
	}
	_, said, _, code = edited(t, `echo '  mtu: 1400' >> "$1"; exit 3`)
	if files := left(t); code == 0 || len(files) != 1 || !strings.Contains(said, "kept in "+files[0]) {
		t.Errorf("changed: exit %d, said %q, left %v", code, said, files)
	}
}

func TestEditOf(t *testing.T) {
	off := false
	old := api.Manifest{Metadata: api.Metadata{Labels: map[string]string{"a": "1", "b": "2"}}, Network: &api.NetworkSpec{Mode: "nat", DNS: []string{"9.9.9.9"}, Guard: &off,
		Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.1"}}}}
	now := api.Manifest{Metadata: api.Metadata{Labels: map[string]string{"a": "3", "c": "4"}}, Network: &api.NetworkSpec{Mode: "nat", HostAdapter: &off,
		Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.254"}}}}
	e := editOf(old, now)
	if e.Mode != nil || e.MTU != nil || e.Autostart != nil || e.SNATIPs != nil || *e.HostAdapter || !*e.Guard || e.DNS == nil || len(e.DNS) != 0 ||
		e.Subnets[0].Gateway != "10.8.0.254" || fmt.Sprint(e.Labels, e.DropLabels) != "map[a:3 c:4] [b]" {
		t.Errorf("got %+v", e)
	}
}

// terminal is a terminal's two ends: who sits there, and what a program has for its input.
func terminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// On a terminal the plan is shown and asked about; -y and --explain ask nothing.
func TestAPlanIsAskedAbout(t *testing.T) {
	manifest := filepath.Join(t.TempDir(), "lab.yaml")
	write(t, manifest, "apiVersion: flatnet/v1\nkind: Network\nmetadata: {name: lab}\nspec: {mode: nat, mtu: 1400}\n")
	for _, command := range [][]string{{"net", "set", "lab", "--mtu", "1400"}, {"apply", "-f", manifest}} {
		for _, c := range []struct {
			flag, answer string
			asked, done  bool
		}{{"", "y\n", true, true}, {"", "n\n", true, false}, {"-y", "", false, true}, {"--explain", "", false, false}} {
			user, program := terminal(t)
			d, socket := startFake(t)
			var out, errs bytes.Buffer
			a := testApp(socket, &out, &errs)
			a.stdin = program
			if _, err := user.WriteString(c.answer); err != nil {
				t.Fatal(err)
			}
			args := command
			if c.flag != "" {
				args = append(append([]string{}, command...), c.flag)
			}
			code := a.main(context.Background(), args)
			done := false
			for _, q := range d.takeAsked() {
				done = done || strings.HasPrefix(q, "POST ") && !strings.Contains(q, "dryRun")
			}
			said := errs.String()
			if asked := strings.Contains(said, "[y/N]") && strings.Contains(said, "+  mtu: 1400") && strings.Contains(said, "add link fn-lab"); asked != c.asked || done != c.done || (code == 0) == (c.asked && !c.done) {
				t.Errorf("%v with %q: asked %v, done %v, exit %d:\n%s%s", args, c.answer, asked, done, code, out.String(), said)
			}
		}
	}
}
