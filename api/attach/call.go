package attach

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// Patience is how long a Call waits.
type Patience struct {
	Start  time.Duration // for the daemon to be there, which it is not while it restarts
	Answer time.Duration // for its reply
}

// Usual outlasts a restart of flatnetd, and ends before those give up who wait for the plugin: kubelet's two minutes are the
// shortest time among them.
var Usual = Patience{Start: 2500 * time.Millisecond, Answer: 55 * time.Second}

// ErrAway is the error of a Call that nobody answered, or not in time: it may be made again, whatever the request was.
var ErrAway = errors.New("flatnetd does not answer")

// dyingPause is how long a Call lets a daemon die that was killed: its connections end a moment before its socket does, and who
// connects in between is lost, too.
const dyingPause = 20 * time.Millisecond

// A Call looks again for a daemon that is not there after a while that doubles from the first to the longest pause.
const (
	firstPause   = 10 * time.Millisecond
	longestPause = 160 * time.Millisecond
)

// Call sends the request, with the descriptor netns beside it unless that is negative, and waits for the reply. The
// descriptor stays the caller's.
//
// A daemon that ends after it has taken the request, without a reply, is asked once more when it is back: every request of
// CNI may be repeated.
func Call(socket string, r Request, netns int, p Patience) (Reply, error) {
	frame, err := r.Append(nil)
	if err != nil {
		return Reply{}, err
	}
	reply, err := ask(socket, frame, netns, p)
	return onceMore(reply, err, socket, frame, netns, p)
}

// Finish is Call for a request that Begin has sent on conn, which it closes.
func Finish(conn int, socket string, r Request, netns int, p Patience) (Reply, error) {
	frame, err := r.Append(nil)
	if err != nil {
		return Reply{}, err
	}
	reply, err := receive(os.NewFile(uintptr(conn), socket), p)
	return onceMore(reply, err, socket, frame, netns, p)
}

// onceMore asks again if the daemon was lost before it replied.
func onceMore(reply Reply, err error, socket string, frame []byte, netns int, p Patience) (Reply, error) {
	if !lost(err) {
		return reply, err
	}
	time.Sleep(dyingPause)
	return ask(socket, frame, netns, p)
}

func ask(socket string, frame []byte, netns int, p Patience) (Reply, error) {
	conn, err := connect(socket, p.Start)
	if err != nil {
		return Reply{}, err
	}
	if err := send(conn, frame, netns, p); err != nil {
		conn.Close()
		return Reply{}, away("send the request", err)
	}
	return receive(conn, p)
}

// connect makes a connection that Go's poller waits for: a thread that blocks in read(2) has the runtime look at it fifty
// times in the first millisecond, which costs more than the poller.
func connect(socket string, patience time.Duration) (*os.File, error) {
	deadline := time.Now().Add(patience)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		fd, errno := dial(socket)
		if errno == 0 {
			return os.NewFile(uintptr(fd), socket), nil
		}
		if !passing(errno) {
			return nil, failed("connect", errno)
		}
		if time.Now().After(deadline) {
			return nil, away("connect", errno)
		}
		time.Sleep(pause)
	}
}

// passing reports whether the daemon is not there (yet) or has as many waiting as it takes, which is EAGAIN.
func passing(err syscall.Errno) bool {
	return err == syscall.ENOENT || err == syscall.ECONNREFUSED || err == syscall.EAGAIN || err == syscall.EINTR
}

// send writes the frame.
func send(conn *os.File, frame []byte, netns int, p Patience) error {
	if err := conn.SetDeadline(time.Now().Add(p.Answer)); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	sent := 0
	var errno syscall.Errno
	err = raw.Write(func(fd uintptr) bool {
		sent, errno = sendOnce(int(fd), frame, netns)
		return errno != syscall.EAGAIN
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil || sent == len(frame) {
		return err // a write of nothing fails, too, once the daemon has answered and closed
	}
	_, err = conn.Write(frame[sent:])
	return err
}

// receive reads the reply, and closes conn.
func receive(conn *os.File, p Patience) (Reply, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(p.Answer)); err != nil {
		return Reply{}, err
	}
	header := make([]byte, HeaderSize)
	if _, err := io.ReadFull(conn, header); err != nil {
		return Reply{}, away("wait for the reply", err)
	}
	n, err := ParseHeader(header)
	if err != nil {
		return Reply{}, failed("read the reply", err)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(conn, body); err != nil {
		return Reply{}, away("read the reply", err)
	}
	reply, err := ParseReply(body)
	if err != nil {
		return Reply{}, failed("read the reply", err)
	}
	return reply, nil
}

// callError is a Call that failed: at what, and why.
type callError struct {
	op   string
	err  error
	away bool // the daemon was not there, or ended, or took too long
}

func away(op string, err error) error   { return &callError{op, err, true} }
func failed(op string, err error) error { return &callError{op, err, false} }

func (e *callError) Error() string        { return e.op + ": " + e.err.Error() }
func (e *callError) Unwrap() error        { return e.err }
func (e *callError) Is(target error) bool { return e.away && target == ErrAway }

// lost reports whether the connection ended before the reply.
func lost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
