// probe is the traffic of the demo, for machines that have no tools for it. It goes by the name it is called with:
//
//	serve PORT        greets every HTTP client by the address it came from
//	fetch URL         prints what such a server says; gives up after two seconds
//	ping [-c N] [-i SECONDS] ADDRESS
//
// It is not part of flatnet and not installed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// patience is how long an answer may take.
const patience = 2 * time.Second

func main() {
	tools := map[string]func([]string) error{"serve": serve, "fetch": fetch, "ping": ping}
	name := filepath.Base(os.Args[0])
	run, ok := tools[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "probe: call it by the name of serve, fetch or ping")
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

func serve(args []string) error {
	if len(args) != 1 {
		return errors.New("which port?")
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "hello %s, you asked %s\n", from, r.Host)
	}
	return http.ListenAndServe(":"+args[0], http.HandlerFunc(answer))
}

func fetch(args []string) error {
	if len(args) != 1 {
		return errors.New("which URL?")
	}
	client := http.Client{Timeout: patience}
	answer, err := client.Get(args[0])
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func ping(args []string) error {
	flags := flag.NewFlagSet("ping", flag.ContinueOnError)
	count := flags.Int("c", 3, "how many")
	interval := flags.Float64("i", 1, "seconds between two")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		return errors.New("which address?")
	}
	to, err := net.ResolveIPAddr("ip4", flags.Arg(0))
	if err != nil {
		return err
	}
	socket, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer socket.Close()
	p := pinger{socket, to, os.Getpid() & 0xffff}
	answers := make(chan int)
	go func() { answers <- p.listen(*count) }()
	for seq := range *count {
		if err := p.ask(seq); err != nil {
			fmt.Println(err)
		}
		time.Sleep(time.Duration(*interval * float64(time.Second)))
	}
	if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	got := <-answers
	fmt.Printf("%d packets transmitted, %d received, %d%% packet loss\n", *count, got, 100*(*count-got)/max(*count, 1))
	if got < *count {
		return fmt.Errorf("%d lost", *count-got)
	}
	return nil
}

// pinger is one run of ping.
type pinger struct {
	socket *icmp.PacketConn
	to     *net.IPAddr
	id     int
}

func (p pinger) ask(seq int) error {
	echo := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: seq, Data: make([]byte, 56)}}
	b, err := echo.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = p.socket.WriteTo(b, p.to)
	return err
}

// listen counts the answers until all are there or the socket's deadline comes.
func (p pinger) listen(count int) int {
	seen := map[int]bool{}
	buf := make([]byte, 1500)
	for len(seen) < count {
		n, from, err := p.socket.ReadFrom(buf)
		if err != nil {
			break
		}
		m, err := icmp.ParseMessage(1, buf[:n]) // 1 is ICMP for IPv4
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		echo, ok := m.Body.(*icmp.Echo)
		if !ok || echo.ID != p.id || seen[echo.Seq] {
			continue
		}
		seen[echo.Seq] = true
		if count <= 10 {
			fmt.Printf("%d bytes from %s: icmp_seq=%d\n", n, from, echo.Seq+1)
		}
	}
	return len(seen)
}
