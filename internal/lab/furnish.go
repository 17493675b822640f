package lab

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Where things are in a machine.
const (
	labDirInside = "/run/lab"
	toolsDir     = labDirInside + "/bin"
	hostsFile    = labDirInside + "/hosts" // mounted over /etc/hosts, of the host and of its workloads
	cgroupMount  = "/sys/fs/cgroup"
)

// disks are the directories of a machine that outlive its power being cut, by their names in its home.
var disks = []struct{ name, at string }{{"lib", "/var/lib/flatnet"}, {"etc", "/etc/flatnet"}}

// furnish gives the mount namespace that the process is alone in the files of a machine: what this machine has, but with a
// /run, /proc and /sys of its own, and with an /etc and a /var/lib where writing changes nothing of this machine's.
func furnish(home, name, mark string) error {
	// Slave, not private: what this machine unmounts later must not be kept alive by us.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach mounts from this machine's: %w", err)
	}
	kept, err := openDisks(home)
	if err != nil {
		return err
	}
	resolver, _ := os.ReadFile("/etc/resolv.conf") // may be a mount or lead into /run
	steps := []func() error{
		func() error { return detach("/run", "/sys", "/etc/flatnet", "/var/lib/flatnet") },
		privateRun,
		func() error { return overlay("/etc") },
		func() error { return overlay("/var/lib") },
		func() error { return mountDisks(kept) },
		func() error { return nameMachine(name, mark, resolver) },
		writeTools,
		mountKernel,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// openDisks opens them while their path is still what it is on this machine.
func openDisks(home string) (map[string]*os.File, error) {
	kept := map[string]*os.File{}
	for _, d := range disks {
		dir := filepath.Join(home, "disk", d.name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		kept[d.at] = f
	}
	return kept, nil
}

func mountDisks(kept map[string]*os.File) error {
	for at, f := range kept {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), at, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		f.Close()
	}
	return nil
}

// detach unmounts what is mounted at or below some places, but for /run, which the disks may be in, and namespaces wherever
// they are kept: they are not to outlive who removes them.
func detach(places ...string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); len(fields) > 4 {
			if point := unescape(fields[4]); strings.HasPrefix(after, "nsfs ") || within(point, places) && point != "/run" {
				points = append(points, point)
			}
		}
	}
	for _, point := range slices.Backward(points) {
		_ = unix.Unmount(point, unix.MNT_DETACH) // it may be gone with what it was below
	}
	return nil
}

// within reports whether a path is one of places or below one.
func within(path string, places []string) bool {
	return slices.ContainsFunc(places, func(p string) bool { return strings.HasPrefix(path+"/", p+"/") })
}

// unescape undoes the kernel's octal escapes in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func privateRun() error {
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	var errs []error
	for _, dir := range []string{"/run/netns", "/run/lock", toolsDir} {
		errs = append(errs, os.MkdirAll(dir, 0o755))
	}
	return errors.Join(errs...)
}

// overlay makes changes below a directory private; they are gone with the machine's power.
func overlay(dir string) error {
	over := filepath.Join(labDirInside, "over"+strings.ReplaceAll(dir, "/", "-"))
	for _, d := range []string{over + "/new", over + "/work"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/new,workdir=%s/work", dir, over, over))
}

// localNames is the beginning of every hosts file.
const localNames = "127.0.0.1 localhost\n::1 localhost ip6-localhost"

// nameMachine makes the files that tell machines apart.
func nameMachine(name, mark string, resolver []byte) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	id := sha256.Sum256([]byte(mark + "/" + name))
	var errs []error
	for file, text := range map[string]string{
		"hostname":    name + "\n",
		"hosts":       "",
		"machine-id":  hex.EncodeToString(id[:16]) + "\n",
		"resolv.conf": string(resolver),
	} {
		path := filepath.Join("/etc", file)
		_ = os.Remove(path) // a link could lead out of /etc
		errs = append(errs, os.WriteFile(path, []byte(text), 0o644))
	}
	errs = append(errs, os.WriteFile(hostsFile, []byte(localNames+"\n"), 0o644), mount(hostsFile, "/etc/hosts", "", unix.MS_BIND, ""))
	return errors.Join(errs...)
}

// writeTools gives machines without ping, or a web server, those of the lab.
func writeTools() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	var errs []error
	for _, tool := range []string{"ping", "serve", "fetch"} {
		text := fmt.Sprintf("#!/bin/sh\nexec '%s' lab %s %s \"$@\"\n", program, WordProbe, tool)
		errs = append(errs, os.WriteFile(filepath.Join(toolsDir, tool), []byte(text), 0o755))
	}
	return errors.Join(errs...)
}

// mountKernel shows the machine its own processes, links and control groups.
func mountKernel() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("sysfs", "/sys", "sysfs", flags, ""); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", flags, ""); err != nil {
		return err
	}
	// Both are missing on some kernels, and flatnetd does without.
	_ = mount("cgroup2", cgroupMount, "cgroup2", flags, "")
	_ = mount("bpf", "/sys/fs/bpf", "bpf", flags, "mode=700")
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s %s: %w", kind, target, err)
	}
	return nil
}
