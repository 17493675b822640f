package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// speed is what a track carries.
type speed struct {
	stream  float64 // Gbit/s of one TCP connection
	answer  float64 // µs, median of one byte there and back
	packets float64 // thousands a second, of 64 bytes in UDP, that arrive
}

// raceTracks measures the tracks in turn and prints the medians of each; ratios are to the first.
func raceTracks(backend string, rounds int, quick bool, tracks ...track) error {
	long := 700 * time.Millisecond
	if quick {
		long = 50 * time.Millisecond
	}
	all := make([][]speed, len(tracks))
	for range rounds {
		for i, t := range tracks {
			s, err := t.measure(long)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", backend, t.name, err)
			}
			all[i] = append(all[i], s)
		}
	}
	first := middle(all[0])
	for i, t := range tracks {
		m := middle(all[i])
		fmt.Printf("%-8s %-24s %6.2f ×%.2f %6.0f ×%.2f %8.0f ×%.2f\n", backend, t.name,
			m.stream, m.stream/first.stream, m.answer, m.answer/first.answer, m.packets, m.packets/first.packets)
	}
	return nil
}

func middle(all []speed) speed {
	of := func(pick func(speed) float64) float64 {
		var values []float64
		for _, s := range all {
			values = append(values, pick(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return speed{of(func(s speed) float64 { return s.stream }), of(func(s speed) float64 { return s.answer }), of(func(s speed) float64 { return s.packets })}
}

func (t track) measure(long time.Duration) (s speed, err error) {
	if s.stream, err = t.streams(long); err == nil {
		s.answer, err = t.asks(long)
	}
	if err == nil {
		s.packets, err = t.floods(long)
	}
	return s, err
}

// connect is a TCP connection from one end of the track to the other.
func (t track) connect() (from, to *net.TCPConn, err error) {
	var listener *net.TCPListener
	err = within(t.to, func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.at, 0)))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	err = within(t.from, func() (err error) {
		from, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	to, err = listener.AcceptTCP()
	return from, to, err
}

// streams sends over one TCP connection, and counts what comes out.
func (t track) streams(long time.Duration) (gigabits float64, err error) {
	from, to, err := t.connect()
	if err != nil {
		return 0, err
	}
	defer to.Close()
	go func() {
		defer from.Close()
		chunk := make([]byte, 128<<10)
		for end := time.Now().Add(long); time.Now().Before(end); {
			if _, err := from.Write(chunk); err != nil {
				return
			}
		}
	}()
	begin, chunk, n := time.Now(), make([]byte, 128<<10), 0
	for {
		got, err := to.Read(chunk)
		n += got
		if errors.Is(err, io.EOF) {
			return float64(n) * 8 / 1e9 / time.Since(begin).Seconds(), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// asks sends one byte there and back, again and again.
func (t track) asks(long time.Duration) (micros float64, err error) {
	from, to, err := t.connect()
	if err != nil {
		return 0, err
	}
	defer from.Close()
	go func() {
		defer to.Close()
		_, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{to})
	}()
	var took []time.Duration
	one := make([]byte, 1)
	for end := time.Now().Add(long); time.Now().Before(end); {
		begin := time.Now()
		if _, err := from.Write(one); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(from, one); err != nil {
			return 0, err
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return float64(took[len(took)/2]) / float64(time.Microsecond), nil
}

// floods sends datagrams of 64 bytes as fast as it can, and counts those that arrive.
func (t track) floods(long time.Duration) (thousands float64, err error) {
	var from, to *net.UDPConn
	err = within(t.to, func() (err error) {
		to, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(t.at, 0)))
		return err
	})
	if err != nil {
		return 0, err
	}
	err = within(t.from, func() (err error) {
		from, err = net.DialUDP("udp", nil, to.LocalAddr().(*net.UDPAddr))
		return err
	})
	if err != nil {
		return 0, errors.Join(err, to.Close())
	}
	defer from.Close()
	defer to.Close()
	var sent atomic.Bool
	go func() {
		defer sent.Store(true)
		packet := make([]byte, 64)
		for end := time.Now().Add(long); time.Now().Before(end); {
			if _, err := from.Write(packet); err != nil {
				return
			}
		}
	}()
	packet, n, begin, last := make([]byte, 128), 0, time.Now(), time.Now()
	for {
		_ = to.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := to.Read(packet)
		switch {
		case err == nil:
			n, last = n+1, time.Now()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		case sent.Load():
			return float64(n) / 1e3 / last.Sub(begin).Seconds(), nil
		}
	}
}
