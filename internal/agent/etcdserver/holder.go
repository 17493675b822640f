package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// holder is the process that has the lock.
type holder struct {
	pid int
	fd  int // pidfd
}

// find returns who has the lock of a file; nil: nobody.
func find(lock string) (*holder, error) {
	for {
		pid, err := lockedBy(lock)
		if err != nil || pid == 0 {
			return nil, err
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
		}
		// Only now the number cannot change hands unnoticed.
		if again, err := lockedBy(lock); err == nil && again == pid {
			return &holder{pid, fd}, nil
		}
		unix.Close(fd)
	}
}

// lockedBy asks the kernel whose lock it is (fcntl(2), F_GETLK); 0: nobody's.
func lockedBy(path string) (int, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("lock %s: %w", path, err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	if lock.Pid <= 0 {
		return 0, fmt.Errorf("lock %s: a process of another pid namespace has it", path)
	}
	return int(lock.Pid), nil
}

// Running says which process serves the data; 0: none.
func Running(lock string) int {
	pid, err := lockedBy(lock)
	if err != nil {
		return 0
	}
	return pid
}

// args are the process's, without its name.
func (h *holder) args() []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", h.pid))
	if err != nil {
		return nil
	}
	words := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	return words[1:]
}

// wait returns when the process has ended or ctx has.
func (h *holder) wait(ctx context.Context) bool {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		unix.Write(wake, []byte{7: 1})
	})
	defer func() {
		if !stop() {
			<-woken // it writes to wake
		}
	}()
	fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if fds[0].Revents != 0 {
			return true
		}
	}
	return false
}

func (h *holder) close() error { return unix.Close(h.fd) }

// gentle is how long etcd may take to end in order: up to 5 s and two elections while somebody watches.
const gentle = 8 * time.Second

// stop ends the process: it is asked, then killed, which loses nothing that etcd has confirmed.
func (h *holder) stop(ctx context.Context) error {
	for _, how := range []struct {
		signal unix.Signal
		time   time.Duration
	}{{unix.SIGTERM, gentle}, {unix.SIGKILL, 10 * time.Second}} {
		if err := unix.PidfdSendSignal(h.fd, how.signal, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("end etcd, process %d: %w", h.pid, err)
		}
		soon, cancel := context.WithTimeout(ctx, how.time)
		ended := h.wait(soon)
		cancel()
		if ended {
			return nil
		}
	}
	return fmt.Errorf("etcd, process %d, does not end", h.pid)
}

// Stop ends the process that has the lock, if there is one.
func Stop(ctx context.Context, lock string) error {
	h, err := find(lock)
	if err != nil || h == nil {
		return err
	}
	return errors.Join(h.stop(ctx), h.close())
}
