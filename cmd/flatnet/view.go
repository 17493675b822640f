package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"golang.org/x/sys/unix"
)

// view is what a command sees of this machine instead of what its starter sees. The zero view is the starter's own.
type view struct {
	Netns  string            // path of the network namespace to enter
	Join   int               // process whose mount namespace is entered when it is in Netns; 0: a new one is made
	Cgroup string            // directory of the cgroup to join
	Dir    string            // working directory
	Files  map[string]string // files that lie over others: /etc/hosts → the workload's
}

// viewOf is the view of a workload's commands. On the host's network that is the host's own.
func viewOf(w api.Workload) (view, error) {
	dir, err := os.Getwd()
	if err != nil {
		return view{}, err
	}
	v := view{Dir: dir}
	if w.Sharing == "host" {
		return v, nil
	}
	if v.Netns = w.Netns; v.Netns == "" || isGone(v.Netns) { // the daemon may not have noticed
		return view{}, noNamespace(w)
	}
	v.Files = map[string]string{}
	for over, file := range map[string]string{"/etc/resolv.conf": w.Files.ResolvConf, "/etc/hosts": w.Files.Hosts} {
		if file != "" {
			v.Files[over] = file
		}
	}
	return v, nil
}

// isGone reports whether there is no namespace at a path any more: nothing, or the empty file that it was mounted on.
func isGone(path string) bool {
	var fs unix.Statfs_t
	err := unix.Statfs(path, &fs)
	return errors.Is(err, unix.ENOENT) || err == nil && fs.Type != unix.NSFS_MAGIC
}

// enter changes the calling thread's namespaces; the caller has locked it and is about to exec. It returns what could not
// be had and is no reason to stop.
func (v view) enter() (warnings []string, err error) {
	if v.Cgroup != "" {
		if err := os.WriteFile(filepath.Join(v.Cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
			warnings = append(warnings, "no cgroup of its own: "+err.Error())
		}
	}
	if v.Netns != "" {
		hosts := append(netnsID("/proc/thread-self/ns/net"), netnsID("/proc/1/ns/net")...)
		w, err := v.enterNamespaces()
		warnings = append(warnings, w...)
		if err != nil {
			return warnings, err
		}
		if err := v.left(hosts); err != nil {
			return warnings, err
		}
	}
	if v.Dir != "" {
		if err := os.Chdir(v.Dir); err != nil {
			return warnings, fmt.Errorf("working directory: %w", err)
		}
	}
	return warnings, nil
}

// namespaceID tells namespaces apart.
type namespaceID struct{ dev, inode uint64 }

// netnsID is none when the path cannot be seen.
func netnsID(path string) []namespaceID {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return nil
	}
	return []namespaceID{{uint64(st.Dev), st.Ino}}
}

// left refuses to go on in the namespace that we came from, or in the machine's own: what was asked for is a workload's.
func (v view) left(hosts []namespaceID) error {
	now := netnsID("/proc/thread-self/ns/net")
	if len(now) == 0 {
		return errors.New("the network namespace that was entered cannot be told from the host's: /proc/thread-self/ns/net is missing")
	}
	if slices.Contains(hosts, now[0]) {
		return fmt.Errorf("network namespace %s is the host's own, not a workload's; nothing was started", v.Netns)
	}
	return nil
}

func (v view) enterNamespaces() ([]string, error) {
	if v.Join != 0 {
		joined, err := joinViewOf(v.Join, v.Netns)
		if joined || err != nil {
			return nil, err
		}
	}
	netns, err := unix.Open(v.Netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", v.Netns, err)
	}
	defer unix.Close(netns)
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("new mount namespace: %w", err)
	}
	// Slave, not private: what the host unmounts later must not stay pinned by every workload.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("detach mounts from the host's: %w", err)
	}
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", v.Netns, err)
	}
	if err := mountSys(); err != nil {
		return nil, err
	}
	return v.coverFiles()
}

// joinViewOf enters the mount and network namespaces of a process if it is in the named network namespace: a process that
// has ended may have left its number to another.
func joinViewOf(pid int, netns string) (bool, error) {
	proc, err := unix.Open(fmt.Sprintf("/proc/%d/ns", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, nil
	}
	defer unix.Close(proc)
	var want, have unix.Stat_t
	if unix.Stat(netns, &want) != nil || unix.Fstatat(proc, "net", &have, 0) != nil || want.Ino != have.Ino || want.Dev != have.Dev {
		return false, nil
	}
	mnt, err := unix.Openat(proc, "mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, nil
	}
	defer unix.Close(mnt)
	net, err := unix.Openat(proc, "net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, nil
	}
	defer unix.Close(net)
	// The threads of a Go program share their root and working directory; setns(2) wants them unshared for CLONE_NEWNS.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return false, fmt.Errorf("unshare root directory: %w", err)
	}
	if err := unix.Setns(net, unix.CLONE_NEWNET); err != nil {
		return false, fmt.Errorf("enter network namespace of process %d: %w", pid, err)
	}
	if err := unix.Setns(mnt, unix.CLONE_NEWNS); err != nil {
		return false, fmt.Errorf("enter mount namespace of process %d: %w", pid, err)
	}
	return true, nil
}

// mountSys replaces /sys by one of the network namespace that the thread is in now (/sys/class/net shows that of whoever
// mounted it) and keeps what was mounted below it, as /sys/fs/cgroup.
func mountSys() error {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	mounts := parseMountInfo(string(text))
	sys, ok := topMount(mounts, "/sys")
	if !ok {
		return nil
	}
	var flags uintptr
	if sys.readOnly() {
		flags = unix.MS_RDONLY
	}
	var kept []keptMount
	for _, m := range mounts {
		if m.parent != sys.id {
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.point, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("keep %s: %w", m.point, err)
		}
		defer unix.Close(fd)
		kept = append(kept, keptMount{m.point, fd})
	}
	_ = unix.Unmount("/sys", unix.MNT_DETACH) // when it stays, the new one lies over it
	if err := unix.Mount("flatnet", "/sys", "sysfs", flags|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys of the namespace: %w", err)
	}
	for _, k := range kept {
		err := unix.MoveMount(k.fd, "", unix.AT_FDCWD, k.point, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("put %s back: %w", k.point, err)
		}
	}
	return nil
}

type keptMount struct {
	point string
	fd    int
}

// coverFiles lays the workload's own files over the host's. A place that is missing on the host cannot be covered.
func (v view) coverFiles() (warnings []string, err error) {
	for over, file := range v.Files {
		if _, err := os.Stat(over); err != nil {
			warnings = append(warnings, fmt.Sprintf("%s is the host's: %s", over, err))
			continue
		}
		if err := unix.Mount(file, over, "", unix.MS_BIND, ""); err != nil {
			return warnings, fmt.Errorf("lay %s over %s: %w", file, over, err)
		}
	}
	return warnings, nil
}

// mountPoint is one line of mountinfo; see proc_pid_mountinfo(5).
type mountPoint struct {
	id, parent string
	point      string
	options    string
	kind       string // cgroup2
}

func (m mountPoint) readOnly() bool {
	return strings.HasPrefix(m.options, "ro,") || m.options == "ro"
}

func parseMountInfo(text string) []mountPoint {
	var mounts []mountPoint
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(kind) < 1 {
			continue
		}
		mounts = append(mounts, mountPoint{id: f[0], parent: f[1], point: unescapeMount(f[4]), options: f[5], kind: kind[0]})
	}
	return mounts
}

// unescapeMount undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// topMount is the mount seen at a point: the last of those stacked there.
func topMount(mounts []mountPoint, point string) (mountPoint, bool) {
	var top mountPoint
	found := false
	for _, m := range mounts {
		if m.point == point {
			top, found = m, true
		}
	}
	return top, found
}

// findCommand looks for a program as a shell does, and says with the shell's exit status why there is none.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, os.ErrPermission):
		return "", commandError{126, fmt.Sprintf("command %q may not be executed", name)}
	default:
		return "", commandError{127, fmt.Sprintf("command %q is not found", name)}
	}
}
