package netlink

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// DoEarly sends the batch's one message and returns when the kernel has answered, or has told that what was asked for is so: with
// some, as with the deletion of a link, it goes on working for itself after that, some 20 ms, and answers only then. Kernels before
// 6.2 do not tell (rtnetlink: Honour NLM_F_ECHO flag in rtnl_delete_link). When it is through, ended is called; until then the Conn
// and the batch are in use.
func (c *Conn) DoEarly(b *Batch, ended func()) error {
	c.mu.Lock()
	b.ask(0, unix.NLM_F_ACK|unix.NLM_F_ECHO)
	seq := c.next(b)
	sent, heard := make(chan struct{}), make(chan struct{})
	defer close(heard)
	var refused error
	go func() {
		refused = c.send(b)
		close(sent)
		<-heard
		c.mu.Unlock()
		ended()
	}()
	runtime.Gosched() // the one that sends comes first: who listens would keep the processor while it waits
	for {
		told, err := c.hear(seq)
		switch {
		case told:
			return err
		case errors.Is(err, unix.EAGAIN) && !closed(sent): // somebody else keeps the kernel busy
		case errors.Is(err, unix.EAGAIN) && refused != nil:
			return refused
		case err != nil:
			return err
		}
	}
}

// hear reads one datagram; told is true when it was of the message of that number, of which err is then the answer.
func (c *Conn) hear(seq uint32) (told bool, err error) {
	var answer error
	err = c.receive(func(m Message) error {
		if m.Seq == seq && !told {
			told = true
			if m.Type == unix.NLMSG_ERROR {
				answer = parseError(m)
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	return told, answer
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
