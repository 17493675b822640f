package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// bootFile keeps values by name until the next reboot, when the kernel has forgotten what they are about.
type bootFile[T any] struct {
	path    string
	boot    string // the kernel's name of this boot
	damaged string // where the file was moved that could not be read; empty: it could
}

type bootFileContent[T any] struct {
	Boot   string
	Values map[string]T
}

// openBootFile reads the file. One that is damaged is no reason not to start, and none to lose what a person may still read in
// it: it is moved aside.
func openBootFile[T any](path string) (bootFile[T], map[string]T, error) {
	f := bootFile[T]{path: path}
	values := map[string]T{}
	boot, err := readSysctl("kernel/random/boot_id")
	if err != nil {
		return f, values, err
	}
	f.boot = boot
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, values, nil
	}
	var c bootFileContent[T]
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err == nil && c.Boot == "" { // as in {}
		err = errors.New("not a file of ours")
	}
	if err != nil {
		if f.damaged, err = moveAside(path); err != nil {
			return f, values, fmt.Errorf("%s is damaged and cannot be moved aside; remove it: %w", path, err)
		}
		return f, values, nil
	}
	if c.Boot == boot && c.Values != nil {
		values = c.Values
	}
	return f, values, nil
}

// Damaged is what the names of damaged files that were moved aside end with.
const Damaged = ".damaged"

// moveAside renames a file to a name that is free.
func moveAside(path string) (to string, err error) {
	for n := 1; ; n++ {
		to = path + Damaged
		if n > 1 {
			to = fmt.Sprintf("%s.%d%s", path, n, Damaged)
		}
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return to, os.Rename(path, to)
		} else if err != nil {
			return "", err
		}
	}
}

func (f bootFile[T]) save(values map[string]T) error {
	text, err := json.MarshalIndent(bootFileContent[T]{f.boot, values}, "", "\t")
	if err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path))
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, f.path)
}
