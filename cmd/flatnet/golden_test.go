package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the transcripts anew")

func TestMain(m *testing.M) {
	if code, ok := reexec(os.Args); ok {
		os.Exit(code)
	}
	if os.Getenv("FLATNET_TEST_HOLD") != "" { // holds a namespace until its input ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	if os.Getenv("FLATNET_TEST_MAIN") != "" { // the tests start themselves as the real program
		main()
	}
	os.Exit(m.Run())
}

// TestTranscripts runs the commands of each testdata/*.txtar against a fake daemon. The other files of the archive lie in the
// working directory; "> " is what the daemon was asked, "! " is standard error.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) { runTranscript(t, f) })
	}
}

func runTranscript(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	abs, _ := filepath.Abs(file)
	t.Chdir(t.TempDir())
	transcript := -1
	for i, f := range archive.Files {
		if f.Name == "transcript" {
			transcript = i
			continue
		}
		if err := os.MkdirAll(filepath.Dir(f.Name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.Name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if transcript < 0 {
		t.Fatalf("%s has no transcript", file)
	}
	want := string(archive.Files[transcript].Data)
	got := replay(t, want)
	if got == want {
		return
	}
	if !*update {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
		return
	}
	archive.Files[transcript].Data = []byte(got)
	if err := os.WriteFile(abs, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replay runs the lines that begin with "$ " and returns the transcript as it is now.
func replay(t *testing.T, transcript string) string {
	d, socket := startFake(t)
	var out strings.Builder
	for line := range strings.Lines(transcript) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ flatnet")
		if !ok {
			if strings.HasPrefix(line, "$ ") {
				t.Fatalf("transcript: %q is no flatnet command", line)
			}
			continue
		}
		if out.Len() > 0 {
			out.WriteString("\n")
		}
		out.WriteString("$ flatnet" + command + "\n")
		var stdout, stderr bytes.Buffer
		code := testApp(socket, &stdout, &stderr).main(context.Background(), splitWords(command))
		for _, a := range d.takeAsked() {
			if method, _, _ := strings.Cut(a, " "); method != "GET" {
				out.WriteString("> " + strings.TrimSpace(a) + "\n")
			}
		}
		out.WriteString(stdout.String())
		for line := range strings.Lines(stderr.String()) {
			out.WriteString("! " + strings.ReplaceAll(line, socket, "SOCKET"))
		}
		if code != 0 {
			fmt.Fprintf(&out, "[%d]\n", code)
		}
	}
	return out.String()
}

func testApp(socket string, stdout, stderr *bytes.Buffer) *app {
	env := map[string]string{"FLATNET_SOCKET": socket}
	return &app{stdin: strings.NewReader(manifestOnStdin), stdout: stdout, stderr: stderr, now: func() time.Time { return epoch.Add(10 * time.Minute) },
		getenv: func(k string) string { return env[k] }, configFile: "config.yaml",
		cni: cniPlaces{confDirs: []string{"etc/cni/net.d"}, binDirs: []string{"opt/cni/bin", "usr/lib/cni"}, plugin: []string{"flatnet-cni"}}}
}

const manifestOnStdin = "apiVersion: flatnet/v1\nkind: Network\nmetadata: {name: piped}\nspec: {mode: isolated}\n"

// splitWords splits at spaces; single quotes hold words together.
func splitWords(s string) []string {
	var words []string
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}
