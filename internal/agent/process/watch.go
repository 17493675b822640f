package process

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher notices the end of processes that are not our children, by pidfd and one epoll.
type Watcher struct {
	epoll, wake int

	mu      sync.Mutex
	watched map[int32]entry // by pidfd
	closed  bool
}

type entry struct {
	name string
	pid  int
}

// NewWatcher makes a Watcher; Run must be called once to give its descriptors back.
func NewWatcher() (*Watcher, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch processes: epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch processes: eventfd: %w", err), unix.Close(epoll))
	}
	return &Watcher{epoll: epoll, wake: wake, watched: map[int32]entry{}}, nil
}

// Add watches the process that has pid and began at start, on behalf of name. It is ErrGone when that one has ended.
func (w *Watcher) Add(name string, pid int, start uint64) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	// Only now the number cannot change hands unnoticed.
	if now, err := Start(pid); err != nil || now != start {
		return errors.Join(fmt.Errorf("process %d: %w", pid, ErrGone), unix.Close(fd))
	}
	return w.add(fd, entry{name, pid})
}

func (w *Watcher) add(fd int, e entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.Join(errors.New("watch processes: the watcher has ended"), unix.Close(fd))
	}
	err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)})
	if err != nil {
		return errors.Join(fmt.Errorf("process %d: epoll: %w", e.pid, err), unix.Close(fd))
	}
	w.watched[int32(fd)] = e
	return nil
}

// Forget stops watching on behalf of name.
func (w *Watcher) Forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for fd, e := range w.watched {
		if e.name == name {
			delete(w.watched, fd)
			unix.Close(int(fd))
		}
	}
}

// Run calls exited for each process that ends, from one goroutine, until the context ends; code is the exit status, or 128
// and the signal, or -1 when nobody can tell.
func (w *Watcher) Run(ctx context.Context, exited func(name string, code int)) error {
	stop := context.AfterFunc(ctx, func() { unix.Write(w.wake, []byte{7: 1}) })
	defer w.close()
	defer stop()
	events := make([]unix.EpollEvent, 64)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch processes: %w", err)
		}
		for _, ev := range events[:max(n, 0)] {
			if e, code, ok := w.ended(ev.Fd); ok {
				exited(e.name, code)
			}
		}
	}
	return nil
}

func (w *Watcher) ended(fd int32) (entry, int, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.watched[fd]
	if !ok {
		return entry{}, 0, false
	}
	delete(w.watched, fd)
	code := exitCode(int(fd), e.pid)
	unix.Close(int(fd))
	return e, code, true
}

func (w *Watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for fd := range w.watched {
		unix.Close(int(fd))
	}
	clear(w.watched)
	unix.Close(w.epoll)
	unix.Close(w.wake)
}

// exitCode asks the zombie, and when its parent has waited for it already, the pidfd.
func exitCode(pidfd, pid int) int {
	if fields, err := stat(pid); err == nil && fields[fieldState] == "Z" {
		if wait, err := strconv.Atoi(fields[fieldExitCode]); err == nil {
			return exitStatus(wait)
		}
	}
	if wait, ok := pidfdExit(pidfd); ok {
		return exitStatus(wait)
	}
	return -1
}

// pidfdExit works since kernel 6.15; the size in the request may be larger than the kernel's own (include/uapi/linux/pidfd.h).
func pidfdExit(fd int) (wait int, ok bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	err := unix.IoctlPidfdInfo(fd, &info)
	return int(info.Exit_code), err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
}
