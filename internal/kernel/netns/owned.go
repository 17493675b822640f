package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Owned is the set of namespaces that we made, kept as one small file each in a directory of ours. The file is written
// before a namespace can be seen and removed after it is gone, so a crash between any two steps leaves a file that
// OpenOwned clears up after. One process at a time may use a directory.
type Owned struct {
	dir  string
	boot string

	mu   sync.Mutex
	ids  map[string]ID  // by path
	dirs map[string]Dir // by path
}

// marker is the file's content.
type marker struct {
	Path string
	ID   ID
	Dir  *Dir   `json:",omitempty"` // it is a directory that we prepared
	Boot string // the kernel's boot id: cookies and inodes mean nothing after it changed
}

// OpenOwned reads the directory, made when it is not there yet, and removes what crashes left.
func OpenOwned(dir string) (*Owned, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	o := &Owned{dir: dir, boot: strings.TrimSpace(string(boot)), ids: map[string]ID{}, dirs: map[string]Dir{}}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	for _, f := range files {
		if err := o.load(filepath.Join(dir, f.Name())); err != nil {
			return nil, fmt.Errorf("netns: %w", err)
		}
	}
	return o, nil
}

// load takes up one marker, or clears up after it when its namespace is gone.
func (o *Owned) load(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var m marker
	if json.Unmarshal(text, &m) != nil || file != o.file(m.Path) { // not written to its end: nothing was made yet
		return os.Remove(file)
	}
	if m.Dir != nil {
		o.dirs[m.Path] = *m.Dir
		return nil
	}
	if id, err := Identify(m.Path); m.Boot == o.boot && (err == nil && id == m.ID || m.ID.lives()) {
		o.ids[m.Path] = m.ID
		return nil
	}
	if info, err := os.Lstat(m.Path); err == nil && info.Mode().IsRegular() && info.Size() == 0 && !Exists(m.Path) {
		os.Remove(m.Path)
	}
	return os.Remove(file)
}

// Missing reports whether the directory is gone, or one of the files: somebody removed it. It is asked every other second, so the files are
// counted: with more than there should be somebody has put some there, and a missing one is noticed when those are gone.
func (o *Owned) Missing() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	dir, err := os.Open(o.dir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return err == nil && len(names) < len(o.ids)+len(o.dirs)
}

// Restore writes the files anew that somebody removed.
func (o *Owned) Restore() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return fmt.Errorf("netns: %w", err)
	}
	var errs []error
	again := func(m marker) {
		if _, err := os.Stat(o.file(m.Path)); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, o.mark(m))
		}
	}
	for dir, d := range o.dirs {
		again(marker{Path: dir, Dir: &d, Boot: o.boot})
	}
	for path, id := range o.ids {
		again(marker{Path: path, ID: id, Boot: o.boot})
	}
	return errors.Join(errs...)
}

// Create makes a namespace of ours at path. One that is there and is not ours is an error. Where ours was, and lives on without its file, as
// somebody removed that under the processes inside, it is that one again.
func (o *Owned) Create(path string) error {
	if o.has(path) {
		return nil
	}
	if Exists(path) {
		return fmt.Errorf("netns %q: exists and is not ours", path)
	}
	if id, known := o.ID(path); known {
		if done, err := id.keepAt(path); done || err != nil {
			return err
		}
	}
	preparing := func(d Dir) error { return o.prepare(filepath.Dir(path), d) }
	return create(path, preparing, func(id ID) error { return o.put(path, id) })
}

func (o *Owned) put(path string, id ID) error {
	if err := o.mark(marker{Path: path, ID: id, Boot: o.boot}); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids[path] = id
	return nil
}

// prepare remembers what is about to be done to a directory; what was done to it first stays.
func (o *Owned) prepare(dir string, d Dir) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if was, ok := o.dirs[dir]; ok {
		d.Made = d.Made || was.Made
	}
	o.dirs[dir] = d
	return o.mark(marker{Path: dir, Dir: &d, Boot: o.boot})
}

func (o *Owned) mark(m marker) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	file := o.file(m.Path)
	unfinished := filepath.Join(o.dir, "new "+filepath.Base(file)) // no path's own file: those hold no space
	if err := os.WriteFile(unfinished, text, 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, file)
}

// Leave takes back what was done to the directories of our namespaces, where nothing is kept in them any more.
func (o *Owned) Leave() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for dir, d := range o.dirs {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			continue
		}
		if err := d.undo(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(o.dirs, dir)
		if err := os.Remove(o.file(dir)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Delete removes a namespace of ours. One that is gone, or that somebody else has put in its place, is only forgotten.
func (o *Owned) Delete(path string) error {
	o.mu.Lock()
	ours, ok := o.ids[path]
	o.mu.Unlock()
	if !ok {
		return nil
	}
	id, err := Identify(path)
	switch {
	case err == nil && id == ours:
		if err := Delete(path); err != nil {
			return err
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	o.mu.Lock() // who asks whether a file is missing sees both or neither
	defer o.mu.Unlock()
	if err := os.Remove(o.file(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("netns %q: %w", path, err)
	}
	delete(o.ids, path)
	return nil
}

// List returns the paths of those that are there now, sorted. A namespace that somebody removed is not listed.
func (o *Owned) List() []string {
	o.mu.Lock()
	ids := maps.Clone(o.ids)
	o.mu.Unlock()
	var paths []string
	for path, id := range ids {
		if isThere(path, id) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// ID is that of the namespace that we made at a path, whether or not it is there still.
func (o *Owned) ID(path string) (id ID, ours bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id, ours = o.ids[path]
	return id, ours
}

func (o *Owned) has(path string) bool {
	id, ok := o.ID(path)
	return ok && isThere(path, id)
}

func isThere(path string, id ID) bool {
	inode, err := Inode(path)
	return err == nil && inode == id.Inode && Exists(path)
}

func (o *Owned) file(path string) string { return filepath.Join(o.dir, url.PathEscape(path)) }
