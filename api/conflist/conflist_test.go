package conflist

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/flatnet/flatnet/api"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Each configuration of testdata/*.txtar is followed by what it is in flatnet's words: the manifest, the runtime's configuration, and
// what has no equal.
func TestConvert(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { golden(t, file) })
	}
}

func golden(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var host Host
	for _, f := range archive.Files {
		if f.Name == "subnet.env" {
			host.SubnetEnv = f.Data
		}
	}
	for i := 0; i < len(archive.Files); i++ {
		f := archive.Files[i]
		if !IsConfig(f.Name) {
			continue
		}
		got, name := converted(t, f.Data, host), f.Name+" is"
		if i+1 == len(archive.Files) || archive.Files[i+1].Name != name {
			archive.Files = slices.Insert(archive.Files, i+1, txtar.File{Name: name})
		}
		if want := string(archive.Files[i+1].Data); got != want && !*update {
			t.Errorf("%s: got\n%s\nwant\n%s", f.Name, got, want)
		}
		archive.Files[i+1].Data = []byte(got)
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func converted(t *testing.T, text []byte, host Host) string {
	c, err := Convert(text, host)
	var b bytes.Buffer
	if err != nil {
		var e *api.Error
		if !errors.As(err, &e) {
			t.Errorf("%v is no *api.Error", err)
		}
		return err.Error() + "\n"
	}
	if err := api.WriteManifests(&b, c.Manifests); err != nil {
		t.Fatal(err)
	}
	if _, err := api.ReadManifests(bytes.NewReader(b.Bytes()), "converted"); err != nil {
		t.Errorf("the manifest is not one: %v", err)
	}
	b.Write(c.Conflist)
	for _, n := range c.Notes {
		fmt.Fprintln(&b, n)
	}
	return b.String()
}

func TestOursIsSigned(t *testing.T) {
	text := Settings{Name: "flatnet", Networks: []string{"pods"}, Socket: "/run/second/attach.sock"}.Text()
	if ours, untouched := Written(text); !ours || !untouched {
		t.Errorf("ours %v, untouched %v:\n%s", ours, untouched, text)
	}
	if again := Sign(text); !bytes.Equal(again, text) {
		t.Errorf("signed again it is\n%s", again)
	}
	for _, edit := range [][2]string{{"pods", "lab"}, {"{\n", "{ \n"}} {
		edited := bytes.Replace(text, []byte(edit[0]), []byte(edit[1]), 1)
		if ours, untouched := Written(edited); !ours || untouched {
			t.Errorf("%q for %q: ours %v, untouched %v", edit[1], edit[0], ours, untouched)
		}
	}
	if ours, _ := Written([]byte(`{"cniVersion": "1.0.0", "name": "flatnet", "plugins": [{"type": "flatnet"}]}`)); ours {
		t.Error("what somebody wrote by hand is taken for ours")
	}
}

// What we write can be read, and says what it was told.
func TestOursIsAConfiguration(t *testing.T) {
	for _, networks := range [][]string{nil, {"pods"}, {"pods", "storage"}} {
		text := Settings{Name: "flatnet", Networks: networks}.Text()
		l, err := Parse(text)
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		p, is := l.Flatnet()
		if got := p.Networks(); !is || !slices.Equal(got, networks) {
			t.Errorf("networks %q are %q:\n%s", networks, got, text)
		}
	}
}

func FuzzConvert(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, a := range archive.Files {
			f.Add(a.Data, []byte("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\n"))
		}
	}
	f.Fuzz(func(t *testing.T, text, env []byte) {
		c, err := Convert(text, Host{SubnetEnv: env})
		if err != nil {
			return
		}
		if _, err := Parse(c.Conflist); err != nil {
			t.Errorf("%s\nis\n%s\n%v", text, c.Conflist, err)
		}
		if ours, untouched := Written(Sign(c.Conflist)); !ours || !untouched {
			t.Errorf("not signed: %s", Sign(c.Conflist))
		}
	})
}
