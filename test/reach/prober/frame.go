package prober

import (
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// sendFrames sends Ethernet frames by a link, whatever addresses they claim.
func sendFrames(link string, frames [][]byte) error {
	fd, err := packetSocket(link, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, f := range frames {
		if _, err := unix.Write(fd, f); err != nil {
			return fmt.Errorf("send on %s: %w", link, err)
		}
	}
	return nil
}

func packetSocket(link string, proto uint16) (int, error) {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(proto), Ifindex: l.Index}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind to %s: %w", link, err)
	}
	return fd, nil
}

func swap(x uint16) uint16 { return x<<8 | x>>8 }

// sniffer keeps the frames that come in by a link.
type sniffer struct {
	mu     sync.Mutex
	frames [][]byte
}

// sniff begins anew when the link is sniffed already.
func (a *agent) sniff(link string) error {
	if _, err := a.caught(link); err == nil {
		return nil
	}
	fd, err := packetSocket(link, unix.ETH_P_ALL)
	if err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) // what is missing of it only makes losses likelier
	s := &sniffer{}
	a.mu.Lock()
	a.sniffers[link] = s
	a.mu.Unlock()
	go s.receive(fd)
	return nil
}

func (s *sniffer) receive(fd int) {
	defer unix.Close(fd)
	buf := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		s.mu.Lock()
		s.frames = append(s.frames, append([]byte(nil), buf[:n]...))
		s.mu.Unlock()
	}
}

// caught returns the frames that came since the last call.
func (a *agent) caught(link string) ([][]byte, error) {
	a.mu.Lock()
	s, ok := a.sniffers[link]
	a.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("nobody sniffs on %s", link)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	frames := s.frames
	s.frames = nil
	return frames, nil
}
