package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/api/conflist"
	"golang.org/x/sys/unix"
)

// fileStep is one change of files, in words, as a command, and done.
type fileStep struct {
	path, text, command string
	do                  func(d disk) error
}

// permitted fails before anything is done, where the caller may not do all of it.
func permitted(steps []fileStep) error {
	for _, s := range steps {
		dir := filepath.Dir(s.path)
		for len(existing([]string{dir})) == 0 && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
		}
		if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			return api.Fail(api.ExitNotPermitted, api.Problem{Code: api.CodeNotPermitted, Reason: fmt.Sprintf("no permission to change files in %s (%v), so nothing was done", dir, err), Fix: "use sudo"})
		}
	}
	return nil
}

// disk makes changes so that whoever looks meanwhile, or after the machine stopped, finds the file of before or the one of after.
type disk struct {
	before func() // called before each effect; tests end there
}

func (d disk) effect() {
	if d.before != nil {
		d.before()
	}
}

// The name of a file that is being written. Runtimes pass over it, and the next run of any `flatnet cni` that changes something takes it away when
// its writer has died.
const (
	unfinishedPrefix = ".flatnet-cni."
	unfinishedSuffix = ".tmp"
)

func unfinished(dir string) string {
	return filepath.Join(dir, unfinishedPrefix+strconv.Itoa(os.Getpid())+unfinishedSuffix)
}

// leftovers are the files in a directory whose writers were killed.
func leftovers(dir string) []string {
	names, _ := filepath.Glob(filepath.Join(dir, unfinishedPrefix+"*"+unfinishedSuffix))
	return slices.DeleteFunc(names, func(name string) bool {
		middle := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), unfinishedPrefix), unfinishedSuffix)
		pid, err := strconv.Atoi(middle)
		return err == nil && pid != os.Getpid() && unix.Kill(pid, 0) == nil
	})
}

// write puts a file in its place as a whole.
func (d disk) write(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	d.effect()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp := unfinished(dir)
	d.effect()
	if err := d.fill(temp, data, mode); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	d.effect()
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(dir)
}

func (d disk) fill(temp string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	d.effect()
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()) // Chmod: whatever the umask is
}

func (d disk) rename(from, to string) error {
	d.effect()
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// remove is done when the file is gone, whoever took it.
func (d disk) remove(path string) error {
	d.effect()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir has a rename outlive a power cut.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func tidySteps(dirs []string) []fileStep {
	var steps []fileStep
	for _, dir := range dirs {
		for _, name := range leftovers(dir) {
			steps = append(steps, removeStep(name, "left by one that was killed"))
		}
	}
	return steps
}

func removeStep(path, why string) fileStep {
	return fileStep{path: path, text: fmt.Sprintf("%s removed: %s", path, why), command: "rm " + shellWord(path), do: func(d disk) error { return d.remove(path) }}
}

func renameStep(from, to, why string) fileStep {
	return fileStep{path: from, text: fmt.Sprintf("%s is %s now: %s", from, filepath.Base(to), why), command: "mv " + shellWord(from) + " " + shellWord(to), do: func(d disk) error { return d.rename(from, to) }}
}

// isPlugin reports whether a file is flatnet-cni: the Go linker writes a program's package into it (debug/buildinfo).
func isPlugin(data []byte) bool {
	return bytes.Contains(data, []byte("github.com/flatnet/flatnet/cmd/flatnet-cni"))
}

// confFile is a configuration in a runtime's directory.
type confFile struct {
	path            string
	data            []byte
	list            conflist.List
	err             error // why it is none
	ours, untouched bool  // written by install; as it was then
}

// confFiles are the configurations of a directory as runtimes see them: by name, and those that take one take the first.
func confFiles(dir string) ([]confFile, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []confFile
	for _, e := range entries {
		if e.IsDir() || !conflist.IsConfig(e.Name()) {
			continue
		}
		f := confFile{path: filepath.Join(dir, e.Name())}
		if f.data, f.err = os.ReadFile(f.path); f.err == nil {
			f.list, f.err = conflist.Parse(f.data)
			f.ours, f.untouched = conflist.Written(f.data)
		}
		files = append(files, f)
	}
	return files, nil
}

// asideSuffix ends the name of a configuration that install put aside; runtimes pass over it, and uninstall puts it back.
const asideSuffix = ".flatnet-bak"
