package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// The words by which flatnetd lab starts itself inside of a lab. They are no commands for people.
const (
	WordHold     = "__hold"     // the first process of a machine
	WordDetach   = "__detach"   // starts a process that stays
	WordWorkload = "__workload" // the command of a workload
	WordProbe    = "__probe"    // traffic: serve, fetch, ping
)

// The descriptors of a holder beside the usual three.
const (
	goAheadFD = 3 // a byte comes when the holder is on record; an end without one means that its maker has died
	answerFD  = 4 // says nothing when the machine is ready, else why not
)

// Hold is the first process of a machine, started in new namespaces: it makes the machine's files and stays. It ends when it
// is killed, and the machine with it.
func Hold(labDir, name, mark string) error {
	answer := os.NewFile(answerFD, "answer")
	if _, err := os.NewFile(goAheadFD, "go ahead").Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("who started this has died: %w", err)
	}
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	if err := furnish(filepath.Join(labDir, name), name, mark); err != nil {
		fmt.Fprint(answer, err)
		return err
	}
	if err := answer.Close(); err != nil {
		return err
	}
	for range children {
		reap()
	}
	return nil
}

// reap asks for the end of all that has ended: the orphans of the machine are its first process's.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// hold starts a machine's holder. It does nothing before it is on record.
func (l *Lab) hold(m *Machine) error {
	goAhead, tellGo, err := os.Pipe()
	if err != nil {
		return err
	}
	defer tellGo.Close()
	answer, tellAnswer, err := os.Pipe()
	if err != nil {
		goAhead.Close()
		return err
	}
	defer answer.Close()
	holder, err := l.startHolder(m, goAhead, tellAnswer)
	goAhead.Close()
	tellAnswer.Close()
	if err == nil {
		err = l.record(func(*state) { m.Holder = holder })
	}
	if err == nil {
		_, err = tellGo.Write([]byte{1})
	}
	if err != nil {
		return err
	}
	text, err := io.ReadAll(answer)
	if err == nil && len(text) > 0 {
		err = errors.New(string(text))
	}
	if err != nil {
		return err
	}
	inodes, err := m.identify()
	return errors.Join(err, l.record(func(*state) { m.Inodes = inodes }))
}

func (l *Lab) startHolder(m *Machine, goAhead, answer *os.File) (Process, error) {
	home := filepath.Join(l.dir, m.Name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return Process{}, err
	}
	log, err := os.OpenFile(filepath.Join(home, "holder.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Process{}, err
	}
	defer log.Close()
	cmd := exec.Command(l.program("flatnetd"), "lab", WordHold, l.dir, m.Name, l.state.Mark)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{goAhead, answer}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	if cgroup, err := l.makeCgroup(m.Name); err == nil {
		defer cgroup.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
		cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWCGROUP
	}
	if err := cmd.Start(); err != nil {
		return Process{}, err
	}
	holder, err := processAt("/proc", cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // how it ended is in its log
	return holder, err
}

// identify tells which namespaces are the machine's, to look for them when they should be gone.
func (m *Machine) identify() (map[string]uint64, error) {
	inodes := map[string]uint64{}
	for _, ns := range inherited {
		var st unix.Stat_t
		if err := unix.Stat(m.proc("ns/"+ns.name), &st); err != nil {
			return nil, &os.PathError{Op: "stat", Path: m.proc("ns/" + ns.name), Err: err}
		}
		inodes[ns.name] = st.Ino
	}
	return inodes, nil
}

// Detach starts a command that outlives this process, and prints its number: it becomes a child of the machine's first
// process when this one ends. Its output goes where descriptor 3 leads.
func Detach(command []string, stdout io.Writer) error {
	if len(command) == 0 {
		return errors.New("which command?")
	}
	log := os.NewFile(3, "log")
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, cmd.Process.Pid)
	return err
}
