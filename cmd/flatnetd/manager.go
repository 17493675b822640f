package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the service manager that started us: sd_notify(3), one datagram a message. Without one it is told nothing.
type manager struct {
	conn  net.Conn      // nil: nobody listens
	every time.Duration // how often it wants to hear that we live; 0: never
}

func newManager(getenv func(string) string) (*manager, error) {
	m := &manager{}
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return m, nil
	}
	conn, err := net.Dial("unixgram", path) // net takes @ for an abstract name, as systemd does
	if err != nil {
		return nil, fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	m.conn = conn
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	pid := getenv("WATCHDOG_PID")
	if err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		m.every = time.Duration(usec) * time.Microsecond / 2 // sd_watchdog_enabled(3) advises half
	}
	return m, nil
}

// tell sends a message; that it is lost is the manager's business.
func (m *manager) tell(state string) {
	if m.conn != nil {
		_, _ = m.conn.Write([]byte(state))
	}
}

func (m *manager) watchdog(ctx context.Context) {
	if m.every == 0 {
		return
	}
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.tell("WATCHDOG=1")
		case <-ctx.Done():
			return
		}
	}
}

// reloads answers SIGHUP. There is nothing to read again, as all settings hold for the daemon's life, but a manager that
// reloads must see it end. listening is called when a signal would be heard.
func (m *manager) reloads(ctx context.Context, listening func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	listening()
	for {
		select {
		case <-hup:
			var now unix.Timespec
			_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
			m.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
			m.tell("READY=1")
		case <-ctx.Done():
			return
		}
	}
}

func (m *manager) close() {
	if m.conn != nil {
		m.conn.Close()
	}
}
