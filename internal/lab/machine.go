package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/flatnet/flatnet/internal/kernel/netns"
	"golang.org/x/sys/unix"
)

// Machine is a made-up machine: a host, or the LAN between them. It lives as long as its first process, which does nothing
// but hold its namespaces.
type Machine struct {
	Name   string
	lab    *Lab
	Holder Process           // as this process sees it
	Inodes map[string]uint64 // its namespaces, by their names in /proc/PID/ns
}

// inherited are the namespaces that a process of the machine is put into; a cgroup namespace it makes for itself, once it is
// in the machine's cgroup.
var inherited = []struct {
	name string
	flag int
}{{"uts", unix.CLONE_NEWUTS}, {"ipc", unix.CLONE_NEWIPC}, {"net", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID}, {"mnt", unix.CLONE_NEWNS}}

// proc is where the holder's namespaces, root directory and so on are.
func (m *Machine) proc(name string) string {
	return filepath.Join("/proc", fmt.Sprint(m.Holder.PID), name)
}

// Running reports whether the machine is: after its power was cut it is not.
func (m *Machine) Running() bool { return m.Holder.alive("/proc") }

// Netns is the path of the machine's network namespace, as long as it runs.
func (m *Machine) Netns() string { return m.proc("ns/net") }

// Path is a file of the machine as others can open it: its /run/flatnet/flatnet.sock is not ours.
func (m *Machine) Path(name string) string { return filepath.Join(m.proc("root"), name) }

// Do calls f on a thread in the machine's network namespace. Its files are this machine's.
func (m *Machine) Do(f func() error) error {
	if err := m.must(); err != nil {
		return err
	}
	return netns.Do(m.Netns(), f)
}

// Start starts a command in the machine: in all of its namespaces and in its cgroup. Its Env, when there is none, is that of
// the machine's shell.
func (m *Machine) Start(cmd *exec.Cmd) error {
	if err := m.must(); err != nil {
		return err
	}
	if cmd.Env == nil {
		cmd.Env = m.Env()
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cgroup, err := os.Open(m.Path(cgroupMount)); err == nil {
		defer cgroup.Close()
		if isCgroup2(cgroup) {
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
			cmd.SysProcAttr.Unshareflags |= unix.CLONE_NEWCGROUP
		}
	}
	return onOtherThread(func() error {
		if err := m.enter(); err != nil {
			return fmt.Errorf("enter %s: %w", m.Name, err)
		}
		return cmd.Start()
	})
}

// enter changes the calling thread's namespaces to the machine's.
func (m *Machine) enter() error {
	// The threads of a Go program share their root and working directory; setns(2) wants them unshared for CLONE_NEWNS.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	files := make([]*os.File, len(inherited))
	for i, ns := range inherited {
		f, err := os.Open(m.proc("ns/" + ns.name))
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	if err := m.must(); err != nil { // now that they are open they are its own
		return err
	}
	for i, ns := range inherited {
		if err := unix.Setns(int(files[i].Fd()), ns.flag); err != nil {
			return fmt.Errorf("namespace %s: %w", ns.name, err)
		}
	}
	return nil
}

// onOtherThread calls f on a thread that ends with it. Never on the process's first: what /proc shows of a process is that
// thread's namespaces, and it cannot end.
func onOtherThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onOtherThread(f) // while this goroutine keeps it, the next has another
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// Env is the environment of the machine's commands: this process's, without what it says of this machine's flatnet.
func (m *Machine) Env() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "FLATNET_") && !strings.HasPrefix(v, "PATH=") {
			env = append(env, v)
		}
	}
	return append(env, "PATH="+strings.Join(m.path(), ":"), "FLATNET_LAB="+m.lab.state.Spec.Name)
}

// path are the directories of the machine's commands; what the lab has for machines without tools comes last.
func (m *Machine) path() []string {
	ours := []string{filepath.Dir(m.lab.program("flatnet")), filepath.Dir(m.lab.program("flatnetd"))}
	return append(append(ours, filepath.SplitList(os.Getenv("PATH"))...), "/usr/local/sbin", "/usr/sbin", "/sbin", toolsDir)
}

// Command is a command to start in the machine, found where the machine's shell would find it.
func (m *Machine) Command(ctx context.Context, command ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.find(command[0]), command[1:]...)
	cmd.Args[0] = command[0]
	return cmd
}

func (m *Machine) find(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	for _, dir := range m.path() {
		if info, err := os.Stat(m.Path(filepath.Join(dir, name))); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	return filepath.Join(toolsDir, name) // whose absence the caller is told
}

// Exec carries out a command in the machine and returns what it printed on both outputs.
func (m *Machine) Exec(ctx context.Context, command ...string) (string, error) {
	var out bytes.Buffer
	cmd := m.Command(ctx, command...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := m.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", m.Name, strings.Join(command, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// Output is Exec without what the command printed on its standard error.
func (m *Machine) Output(ctx context.Context, command ...string) ([]byte, error) {
	var out, diagnosis bytes.Buffer
	cmd := m.Command(ctx, command...)
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	err := m.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.Bytes(), fmt.Errorf("%s: %s: %w: %s", m.Name, strings.Join(command, " "), err, strings.TrimSpace(diagnosis.String()))
	}
	return out.Bytes(), nil
}

// IP carries out iproute2 commands in one process, a line each: `link set eth0 up`. Process ids in them are this machine's.
func (m *Machine) IP(ctx context.Context, lines ...string) error {
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := m.Do(cmd.Start); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: ip: %w: %s", m.Name, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// Sysctl writes values below /proc/sys: `net/ipv4/ip_forward=1`.
func (m *Machine) Sysctl(assignments ...string) error {
	return m.Do(func() error {
		var errs []error
		for _, a := range assignments {
			name, value, _ := strings.Cut(a, "=")
			errs = append(errs, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
		}
		return errors.Join(errs...)
	})
}
