package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The files of testdata have calls of the plugin, one daemon's each: "COMMAND # why", variables and what the daemon says (DAEMON=CODE),
// then standard input; behind each what the daemon was asked, and the answer.
func TestCalls(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, golden := range files {
		t.Run(strings.TrimSuffix(filepath.Base(golden), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			d := newFake()
			s := newServer(d, slog.New(slog.DiscardHandler))
			fresh := txtar.Archive{Comment: archive.Comment}
			for _, f := range archive.Files {
				if f.Name != "answer" {
					fresh.Files = append(fresh.Files, f, txtar.File{Name: "answer", Data: answerTo(t, d, s, f)})
				}
			}
			compareGolden(t, golden, txtar.Format(&fresh))
		})
	}
}

func compareGolden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, _ := os.ReadFile(path)
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s:%d: run with -update and look at the difference; got:\n%s", path, i+1, strings.Join(g[i:min(i+6, len(g))], "\n"))
		}
	}
}

// callIn reads a call of a golden file. The namespace is the test's own: the fake looks at none.
func callIn(t *testing.T, f txtar.File) (of call, refusal string) {
	t.Helper()
	command, _, _ := strings.Cut(f.Name, " # ")
	of.Command, of.Container, of.Netns, of.IfName = command, "c1", "/run/netns/c1", "eth0"
	rest := string(f.Data)
	for {
		line, after, ok := strings.Cut(rest, "\n")
		key, value, isVariable := strings.Cut(line, "=")
		to := map[string]*string{"CNI_CONTAINERID": &of.Container, "CNI_NETNS": &of.Netns, "CNI_IFNAME": &of.IfName, "CNI_ARGS": &of.Args, "DAEMON": &refusal}[key]
		if !ok || !isVariable || to == nil {
			break
		}
		*to, rest = value, after
	}
	of.Config = []byte(strings.TrimSuffix(rest, "\n"))
	if of.Netns != "" && (command == "ADD" || command == "CHECK") {
		ns, err := os.Open("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		of.netns = ns
	}
	return of, refusal
}

func answerTo(t *testing.T, d *fake, s *server, f txtar.File) []byte {
	t.Helper()
	of, refusal := callIn(t, f)
	of.made = new(bool)
	d.asked, d.refusal = nil, nil
	if refusal != "" {
		d.refusal = model.Problem{Code: refusal, Path: "endpoints[0].ips[0]", Reason: model.Titles()[refusal], Owner: "its owner", Fix: "its fix", Example: "its example"}
	}
	reply, err := s.answer(context.Background(), of)
	if err != nil {
		t.Fatalf("%s: %v", f.Name, err)
	}
	var b bytes.Buffer
	for _, line := range d.asked {
		b.WriteString("daemon: " + line + "\n")
	}
	fmt.Fprintf(&b, "exit %d\n", reply.Exit)
	if len(reply.Stdout) > 0 {
		if err := json.Indent(&b, reply.Stdout, "", "  "); err != nil {
			t.Errorf("%s: standard output is not JSON: %s", f.Name, reply.Stdout)
		}
	}
	if reply.Exit != 0 {
		checkFailure(t, f.Name, reply.Stdout)
	}
	return b.Bytes()
}

// checkFailure holds an error to what CNI and we demand of one: a code, a message, and a page of help for ours.
func checkFailure(t *testing.T, name string, stdout []byte) {
	t.Helper()
	var f failure
	if err := json.Unmarshal(stdout, &f); err != nil || f.Code == 0 || f.Msg == "" || f.CNIVersion == "" {
		t.Errorf("%s: not an error of CNI: %s", name, stdout)
	}
	code, _, _ := strings.Cut(f.Msg, ":")
	if _, ok := api.HelpPage(code); !ok {
		t.Errorf("%s: %q does not begin with a code that has a page of help", name, f.Msg)
	}
}
