package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/flatnet/flatnet/api"
)

// supervision is what the supervisor of a detached workload is told.
type supervision struct {
	Workload api.Workload
	Socket   string
	Remove   bool
	Args     []string
	View     view
}

// startSupervisor starts a supervisor in a session of its own and returns when the command runs and the daemon knows it.
func startSupervisor(w api.Workload, socket string, remove bool, args []string) error {
	v, err := viewOf(w)
	if err != nil {
		return err
	}
	if socket, err = filepath.Abs(socket); err != nil {
		return err
	}
	log, err := openLog(w.Files.Log)
	if err != nil {
		return fmt.Errorf("log of workload %q: %w", w.Name, err)
	}
	defer log.Close()
	t, theirs, err := talkPair()
	if err != nil {
		return err
	}
	defer t.file.Close()
	cmd := exec.Command("/proc/self/exe", wordSupervise, w.Name)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	if err := t.enc.Encode(supervision{w, socket, remove, args, v}); err != nil {
		return fmt.Errorf("tell the supervisor what to do: %w", err)
	}
	var r reply
	if err := t.dec.Decode(&r); err != nil {
		return fmt.Errorf("the supervisor ended before the command began; see %s", w.Files.Log)
	}
	warn(os.Stderr, r.Warnings)
	return r.err()
}

// openLog opens where a detached command's output goes; without a path it goes nowhere.
func openLog(path string) (*os.File, error) {
	if path == "" {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
}

// superviseMain starts the command, tells the starter, and stays until the daemon knows how it ended.
func superviseMain(t *talk) int {
	signals := catchSignals()
	var s supervision
	if err := t.dec.Decode(&s); err != nil {
		return 1
	}
	_ = os.Chdir("/") // so that no file system is kept busy by us; the command has its own
	client := api.New(s.Socket)
	cgroup := makeCgroup(s.Workload.Name, func(string, ...any) {})
	defer cgroup.remove()
	s.View.Cgroup = cgroup.dir
	joinSupervisors()
	ctx := context.Background()
	run, err := startCommand(launch{s.View, s.Args}, [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
		reportStart(ctx, client, s.Workload.Name, s.Args, foregroundPatience))
	if err != nil {
		_ = t.enc.Encode(replyOf(err)) // a starter that is gone needs no answer
		return 1
	}
	_ = t.enc.Encode(reply{Warnings: run.warnings})
	t.file.Close()
	code := run.attend(signals, false)
	cgroup.kill()
	return s.conclude(ctx, client, run.cmd.Process.Pid, code)
}

// conclude tells the daemon. After an uninstall there is none to come back, and the workload's files are gone.
func (s supervision) conclude(ctx context.Context, client *api.Client, pid, code int) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for s.Workload.Files.Log != "" && exists(filepath.Dir(s.Workload.Files.Log)) {
			time.Sleep(time.Second)
		}
		cancel()
	}()
	err := reportEnd(ctx, client, s.Workload.Name, pid, code, s.Args, supervisorPatience)
	if err == nil && s.Remove {
		err = removeWorkload(ctx, client, s.Workload.Name, supervisorPatience)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "flatnet: workload %s ended with %d; the daemon was not told: %s\n", s.Workload.Name, code, err)
		return 1
	}
	return 0
}

// joinSupervisors leaves the cgroup of the session that started us, which may be killed when its user logs out.
func joinSupervisors() {
	root, ok := cgroup2Root()
	if !ok {
		return
	}
	dir := filepath.Join(root, cgroupParent, supervisorsCgroup)
	_ = os.Mkdir(dir, 0o755) // without it we stay where we are
	_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}
