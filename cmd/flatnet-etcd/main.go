// Flatnet-etcd is the etcd of a flatnet cluster, on the hosts that are its servers: package internal/store/etcd/server as a program.
// flatnetd starts it there and watches it; it needs no capability, and goes on when flatnetd ends.
//
//	flatnet-etcd --name n-1 --dir /var/lib/flatnet/cluster/etcd --lock /var/lib/flatnet/cluster/etcd.lock \
//	             --client-url https://192.0.2.1:2379 --peer-url https://192.0.2.1:2380 --cert C --key K --ca A
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/flatnet/flatnet/internal/store/etcd/server"
)

// The exit statuses. What is locked is served by another one: no reason to try again.
const (
	exitOK     = 0
	exitError  = 1
	exitUsage  = 2
	exitLocked = 3
)

// version is set by the linker: -X main.version=…
var version = "devel"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// serverName is in the certificates of the cluster's servers, and in no node's: internal/join's ServerName.
const serverName = "server.flatnet"

// settings are the command line.
type settings struct {
	server.Config
	lock    string
	version bool
}

func readFlags(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("flatnet-etcd", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.Name, "name", "", "the server's name in its cluster")
	f.StringVar(&s.Dir, "dir", "", "directory of the data")
	f.StringVar(&s.lock, "lock", "", "file that is locked while this runs, so that nobody else uses the data")
	f.StringVar(&s.ClientURL, "client-url", "", "where nodes come")
	f.StringVar(&s.PeerURL, "peer-url", "", "where the other servers come")
	f.StringVar(&s.TLS.Cert, "cert", "", "file of the server's certificate")
	f.StringVar(&s.TLS.Key, "key", "", "file of its key")
	f.StringVar(&s.TLS.CA, "ca", "", "file of the authority that clients' certificates must be of")
	f.StringVar(&s.PeerTLS.Name, "peer-name", serverName, "the name that other servers' certificates must be for: what comes to peer-url is believed, and clients have certificates of the same authority")
	f.BoolVar(&s.version, "version", false, "print the version")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if !s.version && (s.Name == "" || s.Dir == "" || s.lock == "" || s.ClientURL == "" || s.PeerURL == "" || f.NArg() > 0) {
		err := errors.New("name, dir, lock, client-url and peer-url are needed, and nothing but flags")
		fmt.Fprintln(stderr, "flatnet-etcd:", err)
		return s, err
	}
	s.PeerTLS.Cert, s.PeerTLS.Key, s.PeerTLS.CA = s.TLS.Cert, s.TLS.Key, s.TLS.CA
	return s, nil
}

func run(args []string, stdout, stderr io.Writer) int {
	s, err := readFlags(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case s.version:
		fmt.Fprintln(stdout, "flatnet-etcd", version)
		return exitOK
	}
	log := &logFile{w: stderr}
	lock, err := lockFile(s.lock)
	if err != nil {
		log.note(err.Error())
		return exitLocked
	}
	defer lock.Close()
	if err := dropCapabilities(); err != nil {
		log.note("goes on with capabilities that it does not need: " + err.Error())
	}
	s.Log = log
	if err := serve(s.Config, log); err != nil {
		log.note(err.Error())
		return exitError
	}
	return exitOK
}

// serve runs until the process is told to end, or etcd ends by itself.
func serve(c server.Config, log *logFile) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log.note("starts at " + c.ClientURL)
	s, err := server.Start(ctx, c)
	if err != nil {
		return err
	}
	log.note("serves")
	select {
	case err := <-s.Failed():
		return err
	case <-ctx.Done():
	}
	log.note("ends")
	s.Stop()
	return nil
}

// mostLog is where the log begins anew: etcd tells of every slow write, which on a bad disk is thousands a day.
const mostLog = 4 << 20

// logFile is stderr, which flatnetd opened for appending; when it is a file it never grows beyond mostLog.
type logFile struct{ w io.Writer }

// Write is io.Writer's. zap calls it once at a time for each line, and lines are appended whole.
func (l *logFile) Write(b []byte) (int, error) {
	if f, ok := l.w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > mostLog {
			_ = f.Truncate(0) // it goes on either way
		}
	}
	return l.w.Write(b)
}

func (l *logFile) note(text string) {
	fmt.Fprintf(l, "%s flatnet-etcd[%d] %s: %s\n", time.Now().UTC().Format(time.RFC3339), os.Getpid(), version, text)
}
