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
	path string
	boot string // the kernel's name of this boot
}

type bootFileContent[T any] struct {
	Boot   string
	Values map[string]T
}

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
	if err != nil {
		return f, values, err
	}
	var c bootFileContent[T]
	if err := json.Unmarshal(text, &c); err != nil {
		return f, values, fmt.Errorf("%s: %w", path, err)
	}
	if c.Boot == boot && c.Values != nil {
		values = c.Values
	}
	return f, values, nil
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
