// Package probe is the traffic of labs and demos, for machines that have no tools for it:
//
//	serve PORT        greets every HTTP client by the address it came from
//	fetch URL         prints what such a server says; gives up after two seconds
//	ping [-c N] [-i SECONDS] [-W SECONDS] ADDRESS
//
// It is no part of what flatnet does on a network.
package probe

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// patience is how long an answer may take.
const patience = 2 * time.Second

// Main is the program of a name, with its arguments. It returns the exit status.
func Main(name string, args []string) int {
	tools := map[string]func([]string) error{"serve": serve, "fetch": fetch, "ping": ping}
	run, ok := tools[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "probe: call it by the name of serve, fetch or ping")
		return 2
	}
	if err := run(args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// greeting is what the server says; the words that a person reads are also what Fetch reads.
const greeting = "hello %s, you asked %s\n"

func serve(args []string) error {
	if len(args) != 1 {
		return errors.New("which port?")
	}
	port, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		return err
	}
	return Serve(uint16(port))
}

// Serve greets every HTTP client by the address it came from. It returns when it can't.
func Serve(port uint16) error {
	answer := func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, greeting, from, r.Host)
	}
	return http.ListenAndServe(fmt.Sprintf(":%d", port), http.HandlerFunc(answer))
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

// Fetch asks a server which address it sees. It dials from the calling thread's network namespace.
func Fetch(server netip.AddrPort) (netip.Addr, error) {
	// No http.Client: it dials in a goroutine of its own, which may be in another namespace.
	conn, err := net.DialTimeout("tcp", server.String(), patience)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return netip.Addr{}, err
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", server); err != nil {
		return netip.Addr{}, err
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		return netip.Addr{}, err
	}
	_, body, _ := strings.Cut(string(text), "\r\n\r\n")
	body, _ = strings.CutPrefix(body, "hello ")
	from, _, _ := strings.Cut(body, ",")
	return netip.ParseAddr(from)
}

func ping(args []string) error {
	flags := flag.NewFlagSet("ping", flag.ContinueOnError)
	count := flags.Int("c", 3, "how many")
	interval := flags.Float64("i", 1, "seconds between two")
	wait := flags.Float64("W", patience.Seconds(), "seconds to wait for the last answer")
	if err := flags.Parse(separate(args)); err != nil || flags.NArg() != 1 {
		return errors.New("which address?")
	}
	to, err := net.ResolveIPAddr("ip", flags.Arg(0))
	if err != nil {
		return err
	}
	addr, _ := netip.AddrFromSlice(to.IP)
	p, err := newPinger(addr.Unmap())
	if err != nil {
		return err
	}
	defer p.socket.Close()
	answers := make(chan int)
	go func() { answers <- p.listen(*count, *count <= 10) }()
	for seq := range *count {
		if err := p.ask(seq); err != nil {
			fmt.Println(err)
		}
		time.Sleep(seconds(*interval))
	}
	if err := p.socket.SetReadDeadline(time.Now().Add(seconds(*wait))); err != nil {
		return err
	}
	got := <-answers
	fmt.Printf("%d packets transmitted, %d received, %d%% packet loss\n", *count, got, 100*(*count-got)/max(*count, 1))
	if got < *count {
		return fmt.Errorf("%d lost", *count-got)
	}
	return nil
}

// separate takes -c3 apart, which people are used to from other pings.
func separate(args []string) []string {
	var all []string
	for _, a := range args {
		if len(a) > 2 && a[0] == '-' && a[2] >= '0' && a[2] <= '9' {
			all = append(all, a[:2], a[2:])
		} else {
			all = append(all, a)
		}
	}
	return all
}

func seconds(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }
