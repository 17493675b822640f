package lab

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where this machine's version 2 control groups are; "" when nowhere.
func cgroupRoot() string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return unescape(fields[4])
		}
	}
	return ""
}

func isCgroup2(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// makeCgroup makes a machine's control group and opens it. A machine can be without.
func (l *Lab) makeCgroup(machine string) (*os.File, error) {
	if l.state.Cgroup == "" {
		return nil, fs.ErrNotExist
	}
	dir := filepath.Join(l.state.Cgroup, machine)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// removeCgroup ends whatever is still in the lab's control group, and removes it.
func (l *Lab) removeCgroup(ctx context.Context) error {
	if l.state.Cgroup == "" {
		return nil
	}
	_ = os.WriteFile(filepath.Join(l.state.Cgroup, "cgroup.kill"), []byte("1"), 0) // Linux 5.14; the holders' ends did it
	var last error
	return errors.Join(eventually(ctx, "control group "+l.state.Cgroup+" is empty", func() bool {
		last = removeGroups(l.state.Cgroup)
		return last == nil
	}), last)
}

// stale is how old an empty control group is before it counts as left by a lab whose directory went with a boot, or with the
// namespaces that it was made in.
const stale = time.Minute

// sweepGroups removes what such labs have left.
func sweepGroups(root string) {
	found, _ := filepath.Glob(filepath.Join(root, markPrefix+"*"))
	for _, dir := range found {
		info, err := os.Stat(dir)
		events, _ := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err == nil && time.Since(info.ModTime()) > stale && strings.Contains(string(events), "populated 0") {
			_ = removeGroups(dir) // another may be faster
		}
	}
}

// removeGroups removes a group and those below it, the deepest first.
func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeGroups(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return err
	}
	if err := os.Remove(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
