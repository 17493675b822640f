package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/flatnet/flatnet/api/attach"
	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// most is how many requests are looked at at once; others wait in the socket's queue.
	most = 128
	// ioTime is how long a plugin may take to send its request, or to take the reply.
	ioTime = 10 * time.Second
	// grace is how long requests may go on when the daemon is to end.
	grace = 3 * time.Second
	// acceptPause is how long no connection is taken after one could not be: when there are too many open files, say.
	acceptPause = 50 * time.Millisecond
)

// server answers the plugins.
type server struct {
	daemon Daemon
	log    *slog.Logger
	ending <-chan struct{} // closed when the daemon is to end
	queues queues
}

// Serve answers flatnet-cni on the listener until ctx ends; then it waits for those requests that are under way, a moment only. It
// closes the listener.
func Serve(ctx context.Context, daemon Daemon, listener net.Listener, log *slog.Logger) error {
	s := &server{daemon: daemon, log: log, ending: ctx.Done(), queues: queues{busy: map[string]chan struct{}{}}}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })

	var plugins errgroup.Group
	plugins.SetLimit(most)
	for {
		conn, err := listener.Accept()
		if plugin, ok := conn.(*net.UnixConn); err == nil && ok {
			plugins.Go(func() error { s.serve(work, plugin); return nil })
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			plugins.Wait()
			return nil
		}
		log.Warn("a CNI plugin could not be let in", "error", err)
		time.Sleep(acceptPause)
	}
}

// serve answers the one request of a connection.
func (s *server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	if !isRoot(conn) {
		s.refuse(conn)
		return
	}
	of, err := receive(conn)
	if of.netns != nil {
		defer of.netns.Close()
	}
	if err != nil {
		s.log.Warn("a CNI plugin's request cannot be read", "error", err)
		return
	}
	ctx, cancel := s.whileAsked(ctx, of.Command, conn)
	defer cancel()
	leave, err := s.queues.enter(ctx, of.Container)
	if err != nil {
		return
	}
	defer leave()
	var made bool
	of.made = &made
	reply, err := s.safely(ctx, of)
	if err != nil { // the plugin asks the next daemon
		return
	}
	if !s.reply(conn, reply) && made && reply.Exit == 0 {
		keys, _ := keysOf(of.Config) // they could be read
		s.undo(ctx, of.id(textOf(keys["name"])))
	}
}

// whileAsked ends when the plugin does, as one that the runtime has lost patience with. What takes away goes on all the same.
func (s *server) whileAsked(ctx context.Context, command string, conn *net.UnixConn) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if command != "DEL" && command != "GC" {
		go func() { // a plugin sends no more: this returns when it ends, or with this connection
			conn.Read(make([]byte, 1))
			cancel()
		}()
	}
	return ctx, cancel
}

// safely is answer, but that a panic is the failure of one request only.
func (s *server) safely(ctx context.Context, of call) (reply attach.Reply, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a CNI request met a bug", "command", of.Command, "container", of.Container, "panic", p, "stack", string(debug.Stack()))
			f := failure{Code: types.ErrInternal, Msg: model.CodeInternal + ": the daemon has a bug", Details: "its log says more; more: flatnet help " + model.CodeInternal}
			reply, err = attach.Reply{Exit: 1, Stdout: f.print(newest)}, nil
		}
	}()
	return s.answer(ctx, of)
}

// stopping reports whether an error is of a daemon that is to end.
func (s *server) stopping(err error) bool {
	select {
	case <-s.ending:
	default:
		return false
	}
	problems := problemsIn(err)
	return errors.Is(err, context.Canceled) || len(problems) > 0 && problems[0].Code == model.CodeStopping
}

// refuse answers who is not root. The request is read first, not kept: who still writes would not see the answer.
func (s *server) refuse(conn *net.UnixConn) {
	conn.SetReadDeadline(time.Now().Add(ioTime))
	header := make([]byte, attach.HeaderSize)
	if _, err := io.ReadFull(conn, header); err != nil {
		return
	}
	if size, err := attach.ParseHeader(header); err == nil {
		io.CopyN(io.Discard, conn, int64(size))
	}
	p := model.Problem{Code: model.CodeNotPermitted, Reason: "only root may attach containers", Fix: "run the container runtime as root"}
	s.reply(conn, attach.Reply{Exit: 1, Stdout: failureOf(p, "").print(newest)})
}

func isRoot(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	root := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		root = err == nil && cred.Uid == 0
	})
	return err == nil && root
}

// reply sends the answer, and reports whether the plugin took it.
func (s *server) reply(conn *net.UnixConn, r attach.Reply) bool {
	frame, err := r.Append(nil)
	if err == nil {
		conn.SetWriteDeadline(time.Now().Add(ioTime))
		_, err = conn.Write(frame)
	}
	if err != nil {
		s.log.Debug("a CNI plugin did not wait for its answer", "error", err)
	}
	return err == nil
}

// queues keep the requests of one container in order. A runtime asks one thing at a time; but the plugin that it killed may still be
// answered.
type queues struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // by container; closed when the next may go
}

// enter waits until nobody else is at work for the container, if it is about one.
func (q *queues) enter(ctx context.Context, container string) (leave func(), err error) {
	if container == "" {
		return func() {}, nil
	}
	for {
		q.mu.Lock()
		before, taken := q.busy[container]
		if !taken {
			mine := make(chan struct{})
			q.busy[container] = mine
			q.mu.Unlock()
			return func() { q.leave(container, mine) }, nil
		}
		q.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *queues) leave(container string, mine chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.busy, container)
	close(mine)
}

// receive reads the request of a plugin, and the descriptor that came with it. The call has the descriptor also when there is an error.
func receive(conn *net.UnixConn) (call, error) {
	if err := conn.SetReadDeadline(time.Now().Add(ioTime)); err != nil {
		return call{}, err
	}
	header := make([]byte, attach.HeaderSize)
	ns, n, err := firstBytes(conn, header)
	of := call{netns: ns}
	if err != nil {
		return of, err
	}
	if _, err := io.ReadFull(conn, header[n:]); err != nil {
		return of, fmt.Errorf("read header: %w", err)
	}
	size, err := attach.ParseHeader(header)
	if err != nil {
		return of, err
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return of, fmt.Errorf("read request: %w", err)
	}
	if of.Request, err = attach.ParseRequest(body); err != nil {
		return of, err
	}
	return of, conn.SetReadDeadline(time.Time{})
}
