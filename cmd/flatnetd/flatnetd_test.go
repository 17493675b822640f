package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dropping has the test binary drop its capabilities, as the daemon does, and print what is left.
const dropping = "FLATNETD_TEST_DROPPING"

func TestMain(m *testing.M) {
	if os.Getenv(dropping) == "" {
		os.Exit(m.Run())
	}
	if err := dropCapabilities(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	left, err := permitted()
	slack, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	fmt.Printf("%x %v %d", left, err, slack)
}

func TestOnlyTheStatedCapabilitiesAreKept(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run as root")
	}
	have, err := permitted()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), dropping+"=1")
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("%x <nil> %d", have&mask(), timerSlack); err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if value, ok := strings.CutPrefix(p, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func file(name, content string) func(string) ([]byte, error) {
	return func(asked string) ([]byte, error) {
		if asked != name {
			return nil, fs.ErrNotExist
		}
		return []byte(content), nil
	}
}

func TestFlagsBeatEnvironmentBeatsFile(t *testing.T) {
	kept := "stateDir: /from/file\nrunDir: /from/file\nnetnsDir: /from/file\nlogLevel: debug\n"
	c, err := readConfig([]string{"--state-dir", "/from/flag"}, env("FLATNET_STATE_DIR=/from/env", "FLATNET_RUN_DIR=/from/env/../env"), file(configFile, kept), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := config{StateDir: "/from/flag", RunDir: "/from/env", NetnsDir: "/from/file", GroupMay: "look", LogLevel: slog.LevelDebug, LogFormat: "text",
		Flannel: flannelConfig{Prefix: "/coreos.com/network", SubnetFile: "/run/flannel/subnet.env", Bridge: "auto"}, HostLocalDir: "/var/lib/cni/networks"}
	if c != want {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	none := file("", "")
	for name, c := range map[string]struct {
		args []string
		env  []string
		read func(string) ([]byte, error)
		want string
	}{
		"defaults":        {nil, nil, none, ""},
		"a relative path": {[]string{"--run-dir", "run"}, nil, none, `--run-dir: "run" is not an absolute path`},
		"a level":         {nil, []string{"FLATNET_LOG_LEVEL=loud"}, none, `FLATNET_LOG_LEVEL: slog: level string "loud": unknown name`},
		"a format":        {nil, nil, file(configFile, "logFormat: xml"), `/etc/flatnet/config.yaml: logFormat: "xml" is neither text nor json`},
		"its own records": {[]string{"--run-dir", "/run/x", "--netns-dir", "/run/x/netns/"}, nil, none, `--netns-dir /run/x/netns: flatnetd keeps its own records in /run/x/netns; take another directory, such as /run/x/namespaces`},
		"beside them":     {[]string{"--run-dir", "/run/x", "--netns-dir", "/run/x/netns2"}, nil, none, ""},
		"an etcd":         {[]string{"--flannel-etcd", "192.0.2.1:2379"}, nil, none, `"192.0.2.1:2379" is no URL of etcd, like http://192.0.2.1:2379`},
		"two etcds":       {[]string{"--flannel-etcd", "http://192.0.2.1:2379, https://192.0.2.2:2379"}, nil, none, ""},
		"a bridge":        {[]string{"--flannel-bridge", "mine"}, nil, none, `"mine" is neither auto nor ours nor theirs`},
		"a word":          {[]string{"start"}, nil, none, `"start": flatnetd takes flags only`},
		"a flag":          {[]string{"--verbose"}, nil, none, "flag provided but not defined: -verbose"},
		"a key":           {nil, nil, file(configFile, "socket: /x\nrundir: /y"), `/etc/flatnet/config.yaml: there is no setting "rundir"`},
		"no such file":    {[]string{"--config", "/nowhere"}, nil, none, "file does not exist"},
	} {
		_, err := readConfig(c.args, env(c.env...), c.read, io.Discard)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestHelpNamesEverySetting(t *testing.T) {
	var out bytes.Buffer
	if code := run([]string{"--help"}, env(), io.Discard, &out); code != exitOK {
		t.Errorf("exit %d", code)
	}
	for _, s := range settings() {
		for _, word := range []string{"--" + s.name, s.variable(), s.key() + ":"} {
			if !strings.Contains(out.String(), word) {
				t.Errorf("no %s in:\n%s", word, &out)
			}
		}
	}
	if code := run([]string{"--bad"}, env(), io.Discard, io.Discard); code != exitUsage {
		t.Errorf("a bad flag: exit %d", code)
	}
}

func TestTheServiceManagerIsTold(t *testing.T) {
	dir, err := os.MkdirTemp("", "fnm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "notify")
	l, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, err := newManager(env("NOTIFY_SOCKET="+path, "WATCHDOG_USEC=20000"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	heard := func() string {
		t.Helper()
		buf := make([]byte, 200)
		l.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, _, err := l.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	m.tell("READY=1")
	if got := heard(); got != "READY=1" {
		t.Errorf("got %q", got)
	}
	go m.watchdog(ctx)
	if got := heard(); got != "WATCHDOG=1" {
		t.Errorf("got %q", got)
	}
	nobody, err := newManager(env())
	if err != nil {
		t.Fatal(err)
	}
	nobody.tell("READY=1")
	nobody.watchdog(ctx)
}

func TestReloadsEnd(t *testing.T) {
	dir, err := os.MkdirTemp("", "fnm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "notify")
	l, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, err := newManager(env("NOTIFY_SOCKET=" + path))
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready := make(chan struct{})
	go m.reloads(ctx, func() { close(ready) })
	<-ready
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"RELOADING=1\nMONOTONIC_USEC=", "READY=1"} {
		buf := make([]byte, 200)
		l.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, _, err := l.ReadFrom(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), want) {
			t.Errorf("got %q, %v, want %q", buf[:n], err, want)
		}
	}
}

func TestFlannelsEtcdIsSpokenToAsTheFilesSay(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, cert, key := certificate(t)
	good := flannelConfig{Etcd: "https://192.0.2.1:2379", CA: write("ca", ca), Cert: write("cert", cert), Key: write("key", key)}
	for name, x := range map[string]struct {
		change func(*flannelConfig)
		want   string
	}{
		"all":             {func(*flannelConfig) {}, ""},
		"nothing":         {func(c *flannelConfig) { *c = flannelConfig{Etcd: c.Etcd} }, ""},
		"a certificate":   {func(c *flannelConfig) { c.Key = "" }, "need each other"},
		"no such file":    {func(c *flannelConfig) { c.CA = filepath.Join(dir, "none") }, "--flannel-etcd-ca: open"},
		"no certificate":  {func(c *flannelConfig) { c.CA = c.Key }, "no certificate in"},
		"keys of another": {func(c *flannelConfig) { _, _, other := certificate(t); c.Key = write("other", other) }, "--flannel-etcd-cert: tls: private key does not match"},
	} {
		c := good
		x.change(&c)
		e, err := c.elsewhere(slog.New(slog.DiscardHandler))
		if got := fmt.Sprint(err); err != nil && (x.want == "" || !strings.Contains(got, x.want)) || err == nil && (x.want != "" || e == nil) {
			t.Errorf("%s: got %v, %v, want %q", name, e, err, x.want)
		}
	}
	if e, err := (flannelConfig{}).elsewhere(nil); e != nil || err != nil {
		t.Errorf("without --flannel-etcd: %v, %v", e, err)
	}
}

// certificate is one that signs itself, as its own authority, and its key.
func certificate(t *testing.T) (ca, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	signed, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}))
	return text, text, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}
