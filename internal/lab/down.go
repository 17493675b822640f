package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// Down takes the lab away, also one that is half up, and proves it: that something is left is an error which lists it. Of a
// lab that is down already nothing is done.
func (l *Lab) Down(ctx context.Context) error {
	if _, err := os.Stat(l.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return l.change(func() error { return l.down(ctx) })
}

func (l *Lab) down(ctx context.Context) error {
	var errs []error
	for _, m := range l.machines() {
		if err := m.Holder.end(ctx, "/proc"); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		}
	}
	errs = append(errs, l.removeCgroup(ctx))
	if err := errors.Join(errs...); err != nil {
		return err // its directory stays, so that it can be tried again
	}
	var left []string
	_ = eventually(ctx, "nothing is left", func() bool { left = l.leftInKernel(); return len(left) == 0 })
	if len(left) > 0 {
		return model.Problem{Code: codeLeft, Reason: fmt.Sprintf("lab %q left something behind", l.Name()), Owner: strings.Join(left, "\n  "),
			Fix: "end what holds it, and take the lab down again"}
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(l.dir)) // when it was the last
	l.tell("lab %q is down, nothing left behind (checked: %s)", l.Name(), strings.Join(checked, ", "))
	return nil
}

// checked is what Left looks for.
var checked = []string{"processes", "namespaces", "links", "mounts", "control groups", "files"}

func (l *Lab) machines() []*Machine {
	all := []*Machine{}
	for _, h := range l.hosts {
		all = append(all, &h.Machine)
	}
	return append(all, l.lan)
}

// Left lists what there is on this machine that carries the lab's mark, or is in one of its namespaces: all of the lab while it
// is up, nothing when it is down.
func (l *Lab) Left() []string {
	left := l.leftInKernel()
	if _, err := os.Lstat(l.dir); err == nil {
		left = append(left, "directory "+l.dir)
	}
	return left
}

// leftInKernel is what would stay when the files were gone.
func (l *Lab) leftInKernel() []string {
	left := l.leftProcesses()
	left = append(left, l.leftLinks()...)
	left = append(left, l.leftMounts()...)
	if groups, _ := filepath.Glob(filepath.Join(cgroupRoot(), l.state.Mark)); cgroupRoot() != "" {
		for _, g := range groups {
			left = append(left, "control group "+g)
		}
	}
	return left
}

// leftProcesses are those that name the mark, are in the control group, or in a namespace of the lab's or hold one open.
func (l *Lab) leftProcesses() []string {
	namespaces := l.namespaces()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if _, err := startOf(filepath.Join("/proc", e.Name())); err != nil {
			continue // it has ended
		}
		if why := l.carries(filepath.Join("/proc", e.Name()), namespaces); why != "" {
			name, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
			left = append(left, fmt.Sprintf("process %d (%s): %s", pid, strings.TrimSpace(string(name)), why))
		}
	}
	return left
}

// carries says by what a process is the lab's.
func (l *Lab) carries(dir string, namespaces []string) string {
	for _, file := range []string{"cmdline", "cgroup"} {
		if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil && strings.Contains(string(text), l.state.Mark) {
			return "its " + file + " has the lab's mark"
		}
	}
	for _, links := range []string{"ns", "fd"} {
		entries, _ := os.ReadDir(filepath.Join(dir, links)) // a process may end at any time
		for _, e := range entries {
			if to, err := os.Readlink(filepath.Join(dir, links, e.Name())); err == nil && slices.Contains(namespaces, to) {
				return "has namespace " + to
			}
		}
	}
	return ""
}

// namespaces are the lab's as the links in /proc name them: net:[4026532301].
func (l *Lab) namespaces() []string {
	var all []string
	for _, m := range l.machines() {
		for kind, inode := range m.Inodes {
			all = append(all, fmt.Sprintf("%s:[%d]", kind, inode))
		}
	}
	return all
}

// leftLinks are links of this machine that are the lab's.
func (l *Lab) leftLinks() []string {
	var left []string
	aliases, _ := filepath.Glob("/sys/class/net/*/ifalias")
	for _, file := range aliases {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), l.state.Mark) {
			left = append(left, "link "+filepath.Base(filepath.Dir(file)))
		}
	}
	return left
}

// leftMounts are mounts of this machine in the lab's directory, or of its namespaces.
func (l *Lab) leftMounts() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	namespaces := l.namespaces()
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && (strings.HasPrefix(unescape(fields[4]), l.dir+"/") || slices.Contains(namespaces, fields[3])) {
			left = append(left, "mount "+unescape(fields[4]))
		}
	}
	return left
}
