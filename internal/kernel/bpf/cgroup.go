package bpf

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// openCgroup opens a cgroup2 directory, by default the highest that is mounted, and returns its id. The file need not be a
// path: where nothing is mounted, as with cgroup v1 only, it is the hierarchy that the kernel always has.
func openCgroup(dir string) (*os.File, uint64, error) {
	f, err := openCgroupDir(dir)
	if err != nil {
		return nil, 0, &Unsupported{"no cgroup2 hierarchy", err}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("bpf: stat cgroup %s: %w", f.Name(), err)
	}
	return f, stat.Ino, nil // the inode number is the id (kernfs, 64 bits)
}

func openCgroupDir(dir string) (*os.File, error) {
	if dir != "" {
		return os.Open(dir)
	}
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	if highest, ok := highestCgroup(slices.DeleteFunc(mounts, hidden)); ok {
		return os.Open(highest.point)
	}
	return openUnmounted("cgroup2")
}

// hidden reports whether something else is to be seen at a mount of cgroup2: another mount covers it.
func hidden(m mount) bool {
	var fs unix.Statfs_t
	return m.fstype == "cgroup2" && (unix.Statfs(m.point, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC)
}

// highestCgroup is the mount of cgroup2 that shows the most. A root above our cgroup namespace's is written /.. .
func highestCgroup(mounts []mount) (mount, bool) {
	var best mount
	for _, m := range mounts {
		if m.fstype == "cgroup2" && (best.point == "" || depth(m.root) < depth(best.root)) {
			best = m
		}
	}
	return best, best.point != ""
}

// depth is how far below our cgroup namespace's root a directory is; above it is negative.
func depth(root string) int {
	n := 0
	for _, step := range strings.Split(root, "/") {
		switch step {
		case "":
		case "..":
			n--
		default:
			n++
		}
	}
	return n
}

// openUnmounted opens the root of a file system that appears nowhere.
func openUnmounted(fstype string) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open file system %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("make file system %s: %w", fstype, err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open root of file system %s: %w", fstype, err)
	}
	return os.NewFile(uintptr(root), fstype), nil
}

// mount is one line of mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	root   string // of the mounted file system
	point  string
	fstype string
	source string
}

// readMounts lists what the calling thread sees.
func readMounts() ([]mount, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if m, ok := parseMount(lines.Text()); ok {
			mounts = append(mounts, m)
		}
	}
	return mounts, lines.Err()
}

// parseMount reads `36 35 98:0 /root /point options [tags…] - type source options`.
func parseMount(line string) (mount, bool) {
	left, right, ok := strings.Cut(line, " - ")
	before, after := strings.Fields(left), strings.Fields(right)
	if !ok || len(before) < 6 || len(after) < 2 {
		return mount{}, false
	}
	return mount{root: unescape(before[3]), point: unescape(before[4]), fstype: after[0], source: unescape(after[1])}, true
}

// unescape undoes what the kernel does to the characters that would break the table.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
