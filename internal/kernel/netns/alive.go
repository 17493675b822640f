package netns

import (
	"fmt"
	"os"
	"path/filepath"
)

// inhabited opens a namespace by a process that is in it; nil when there is none.
func (id ID) inhabited() *os.File {
	all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range all {
		if inode, err := Inode(link); err != nil || inode != id.Inode {
			continue
		}
		ns, err := Open(link)
		if err != nil {
			continue
		}
		if is, err := IdentityOf(ns); err == nil && is == id {
			return ns
		}
		ns.Close()
	}
	return nil
}

// lives reports whether there is a process in the namespace.
func (id ID) lives() bool {
	ns := id.inhabited()
	if ns == nil {
		return false
	}
	ns.Close()
	return true
}

// keepAt binds a namespace that lives by its processes alone onto a file.
func (id ID) keepAt(path string) (done bool, err error) {
	ns := id.inhabited()
	if ns == nil {
		return false, nil
	}
	defer ns.Close()
	if err := bind(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path); err != nil {
		return false, fmt.Errorf("netns %q: %w", path, err)
	}
	return true, nil
}
