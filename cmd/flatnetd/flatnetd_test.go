package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
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
		Flannel: flannelConfig{Prefix: "/coreos.com/network", SubnetFile: "/run/flannel/subnet.env", Bridge: "auto"}}
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
