package bpf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Config says where to work.
type Config struct {
	RunDir string // the daemon's directory below /run: pins are in RunDir/bpf
	Cgroup string // directory of a cgroup2 whose sockets are meant; empty: the highest that can be seen
}

// Unsupported says why this machine can't do what the package is for.
type Unsupported struct {
	Reason string // what is missing
	Err    error  // the kernel's words, or nil
}

func (u *Unsupported) Error() string {
	if u.Err == nil {
		return "unsupported: " + u.Reason
	}
	return fmt.Sprintf("unsupported: %s: %s", u.Reason, u.Err)
}

func (u *Unsupported) Unwrap() error { return u.Err }

// Conn works for one network namespace. Its methods may be called concurrently, from any thread.
type Conn struct {
	root    string // where the pins' file system is or will be mounted
	version string // the directory below root for these programs and this namespace
	ours    uint64 // cookie of the namespace

	cgroup   *os.File
	cgroupID uint64

	mu sync.Mutex // one Apply at a time
}

// New works for the network namespace of the calling thread. The error is an *Unsupported when the kernel, its mounts or our
// privileges don't allow it: all is done with CAP_SYS_ADMIN alone.
func New(cfg Config) (*Conn, error) {
	if err := Probe(cfg); err != nil {
		return nil, err
	}
	ours, err := netnsCookie()
	if err != nil {
		return nil, err
	}
	cgroup, id, err := openCgroup(cfg.Cgroup)
	if err != nil {
		return nil, err
	}
	c := &Conn{root: filepath.Join(cfg.RunDir, "bpf"), version: version(ours), ours: ours, cgroup: cgroup, cgroupID: id}
	if err := c.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("bpf: %w", err), c.Close())
	}
	return c, nil
}

// Close ends the work; what is attached stays.
func (c *Conn) Close() error { return c.cgroup.Close() }

// version names a directory: other programs, or programs for another namespace, are in another one. The file system refuses
// names with a dot.
func version(ours uint64) string {
	return fmt.Sprintf("%.6x-%d", sha256.Sum256(_LoopbackBytes), ours)
}

func (c *Conn) pin(name string) string { return filepath.Join(c.root, c.version, name) }

// spec is the compiled programs, set to work for a namespace.
func spec(ours uint64) (*ebpf.CollectionSpec, error) {
	s, err := loadLoopback()
	if err != nil {
		return nil, err
	}
	return s, s.Variables[loopbackVarOurs].Set(ours)
}

// netnsCookie is the number by which programs know the calling thread's network namespace; no other gets it until reboot.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("bpf: open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, &Unsupported{"cookies of network namespaces (needs Linux 5.14)", err}
	}
	return cookie, nil
}

// isVersion tells our directories from what others may keep on the same file system.
func isVersion(dir string) bool {
	hash, cookie, ok := strings.Cut(dir, "-")
	_, err := strconv.ParseUint(cookie, 10, 64)
	return ok && err == nil && len(hash) == 12 && strings.Trim(hash, "0123456789abcdef") == ""
}
