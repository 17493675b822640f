package bpf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProbeChangesNothing(t *testing.T) {
	s := newSpace(t)
	dir := t.TempDir()
	var err error
	s.do(func() { err = Probe(Config{RunDir: dir, Cgroup: testCgroup()}) })
	if err != nil {
		t.Error(err)
	}
	s.mustBeClean(t, dir)
}

// The reason is what doctor shows.
func TestUnsupportedSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		lack []uint // capabilities
		cfg  Config
		want string
	}{
		"no cgroup2": {nil, Config{RunDir: dir, Cgroup: filepath.Join(dir, "none")},
			"unsupported: no cgroup2 hierarchy: open " + dir + "/none: no such file or directory"},
		"may not mount": {[]uint{unix.CAP_SYS_ADMIN}, Config{RunDir: dir, Cgroup: testCgroup()},
			"unsupported: can't mount a BPF file system at " + dir + "/bpf (needs CAP_SYS_ADMIN): operation not permitted"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			var err error
			s.do(func() {
				if err = dropCapabilities(test.lack); err == nil {
					_, err = New(test.cfg)
				}
			})
			var unsupported *Unsupported
			if !errors.As(err, &unsupported) || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
			s.mustBeClean(t, dir)
		})
	}
}

// A file system that somebody mounted for us does not make up for the rest.
func TestUnsupportedWithoutThePrivilegeToLoad(t *testing.T) {
	s := newSpace(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "bpf")
	var err error
	s.do(func() {
		if err = os.Mkdir(root, 0o700); err == nil {
			err = unix.Mount("somebody", root, "bpf", 0, "")
		}
		if err == nil {
			err = dropCapabilities([]uint{unix.CAP_SYS_ADMIN, unix.CAP_BPF})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s.do(func() { _, err = New(Config{RunDir: dir, Cgroup: testCgroup()}) })
	var unsupported *Unsupported
	want := "unsupported: loading BPF programs is not permitted (needs CAP_SYS_ADMIN): "
	if !errors.As(err, &unsupported) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// What is somebody else's stays: the mount, and what is in it.
func TestAMountOfSomebodyElseStays(t *testing.T) {
	s := newSpace(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "bpf")
	var err error
	s.do(func() {
		if err = os.Mkdir(root, 0o700); err == nil {
			err = unix.Mount("somebody", root, "bpf", 0, "")
		}
		if err == nil {
			err = os.Mkdir(filepath.Join(root, "theirs"), 0o700)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := s.conn(t, dir)
	s.apply(t, conn, wanted())
	s.end(t, conn)
	s.do(func() {
		if _, err := os.Stat(filepath.Join(root, "theirs")); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
		os.Remove(root)
	})
	s.mustBeClean(t, dir)
}

// dropCapabilities takes them from the thread's effective set.
func dropCapabilities(lack []uint) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	for _, c := range lack {
		data[c/32].Effective &^= 1 << (c % 32)
	}
	return unix.Capset(&header, &data[0])
}

// flatnetd runs with few capabilities; this one is enough for all of this package.
func TestTheCapabilityThatIsNeeded(t *testing.T) {
	p := newPair(t, "workload")
	dir := t.TempDir()
	var others []uint
	for c := uint(0); c <= unix.CAP_LAST_CAP; c++ {
		if c != unix.CAP_SYS_ADMIN {
			others = append(others, c)
		}
	}
	var err error
	p.host.do(func() { err = dropCapabilities(others) })
	if err != nil {
		t.Fatal(err)
	}
	conn := p.host.conn(t, dir)
	p.host.apply(t, conn, wanted())
	if err := p.mustAnswer(t.Context()); err != nil {
		t.Error(err)
	}
	p.host.end(t, conn)
	p.host.mustBeClean(t, dir)
}

// With cgroup v1 only, nothing is mounted, and yet the kernel has every process in the root of cgroup2.
func TestAHostWithoutAMountedCgroup2(t *testing.T) {
	p := newPair(t, "workload")
	dir := t.TempDir()
	var conn *Conn
	var err error
	p.host.do(func() {
		if err = unix.Unmount(cgroupRoot(), unix.MNT_DETACH); err == nil {
			conn, err = New(Config{RunDir: dir})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p.host.apply(t, conn, wanted())
	if err := p.mustAnswer(t.Context()); err != nil {
		t.Error(err)
	}
	p.host.end(t, conn)
	p.host.mustBeClean(t, dir)
}

// Where only a part of the hierarchy is mounted, the sockets of that part are served.
func TestAHostThatShowsOnlyAPartOfTheHierarchy(t *testing.T) {
	p := newPair(t, "workload")
	dir := t.TempDir()
	part := t.TempDir()
	var conn *Conn
	var err error
	p.host.do(func() {
		root, cgroup := cgroupRoot(), testCgroup()
		if err = unix.Mount(cgroup, part, "", unix.MS_BIND, ""); err == nil {
			if err = unix.Unmount(root, unix.MNT_DETACH); err == nil {
				conn, err = New(Config{RunDir: dir})
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.cgroup.Name() != part {
		t.Errorf("attaches to %s, want %s", conn.cgroup.Name(), part)
	}
	p.host.apply(t, conn, wanted())
	if err := p.mustAnswer(t.Context()); err != nil {
		t.Error(err)
	}
	p.host.end(t, conn)
	p.host.mustBeClean(t, dir)
}

func TestTheHighestCgroupIsTaken(t *testing.T) {
	for name, test := range map[string]struct{ mountinfo, want string }{
		"none":                                 {"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw", ""},
		"v2":                                   {"31 23 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw", "/sys/fs/cgroup"},
		"hybrid":                               {"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 none rw", "/sys/fs/cgroup/unified"},
		"bind mount of a part":                 {"40 23 0:38 /pods/a /a rw - cgroup2 cgroup2 rw\n41 23 0:38 / /b rw - cgroup2 cgroup2 rw", "/b"},
		"only a part":                          {"40 23 0:38 /pods/a /a rw - cgroup2 cgroup2 rw", "/a"},
		"the host's, above a cgroup namespace": {"40 23 0:38 / /a rw - cgroup2 cgroup2 rw\n41 23 0:38 /../../.. /host rw - cgroup2 cgroup2 rw", "/host"},
		"a name with a space":                  {`41 23 0:38 / /my\040cgroups rw - cgroup2 cgroup2 rw`, "/my cgroups"},
		"nonsense":                             {"a b c\n - \n1 2 3 4 5 6 - cgroup2\n", ""},
	} {
		var mounts []mount
		for line := range strings.Lines(test.mountinfo) {
			if m, ok := parseMount(line); ok {
				mounts = append(mounts, m)
			}
		}
		if got, _ := highestCgroup(mounts); got.point != test.want {
			t.Errorf("%s: got %q, want %q", name, got.point, test.want)
		}
	}
}

func TestCoveredCgroupsAreHidden(t *testing.T) {
	if root := cgroupRoot(); hidden(mount{point: root, fstype: "cgroup2"}) {
		t.Errorf("%s is to be seen", root)
	}
	if covered := t.TempDir(); !hidden(mount{point: covered, fstype: "cgroup2"}) {
		t.Errorf("at %s is something else", covered)
	}
}

// The compiled programs are committed; sources.sum says of which sources they are.
func TestTheCompiledProgramsAreOfTheseSources(t *testing.T) {
	sums, err := os.ReadFile("sources.sum")
	if err != nil {
		t.Fatal(err)
	}
	if got := sourceSums(t); got != string(sums) {
		t.Errorf("bpf/ was changed without `go generate ./internal/kernel/bpf`:\n%s\nnow:\n%s", sums, got)
	}
}

func sourceSums(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"kernel.h", "loopback.c"} {
		text, err := os.ReadFile(filepath.Join("../../../bpf", name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(text), name)
	}
	return b.String()
}
