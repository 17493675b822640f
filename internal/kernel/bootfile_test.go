package kernel

import (
	"os"
	"path/filepath"
	"testing"
)

func TestADamagedBootFileIsMovedAside(t *testing.T) {
	for name, text := range map[string]string{
		"empty":  "",
		"cut":    `{"Boot": "x", "Values": {"net/ipv4/ip_forward": {"Value": "0"`,
		"null":   "null",
		"others": `{}`,
		"types":  `{"Boot": "x", "Values": {"net/ipv4/ip_forward": 0}}`,
	} {
		path := filepath.Join(t.TempDir(), "sysctls.json")
		for _, aside := range []string{path + ".damaged", path + ".2.damaged"} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			o, err := openOriginals(path)
			if err != nil || o.file.damaged != aside || len(o.values) > 0 {
				t.Fatalf("%s: %d values, moved to %q: %v", name, len(o.values), o.file.damaged, err)
			}
			if kept, err := os.ReadFile(aside); err != nil || string(kept) != text {
				t.Errorf("%s: kept is %q: %v", name, kept, err)
			}
			if err := o.changing("net/ipv4/ip_forward", "0", "1"); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			again, err := openOriginals(path)
			if err != nil || again.file.damaged != "" || again.values["net/ipv4/ip_forward"] != (original{"0", "1"}) {
				t.Errorf("%s: written and read again: %+v: %v", name, again, err)
			}
		}
	}
}

func TestAnUnreadableBootFileIsMovedAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sysctls.json")
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if o, err := openOriginals(path); err != nil || o.file.damaged == "" {
		t.Errorf("a directory of that name: %+v: %v", o, err)
	}
}

func TestAnEarlierBootsFileIsForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sysctls.json")
	if err := os.WriteFile(path, []byte(`{"Boot": "another", "Values": {"net/ipv4/ip_forward": {"Value": "0", "Ours": "1"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err := openOriginals(path); err != nil || o.file.damaged != "" || len(o.values) > 0 {
		t.Errorf("%+v: %v", o, err)
	}
}
