package main

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
)

func FuzzNetworkFlag(f *testing.F) {
	f.Add("lab,ip=10.8.0.9,mac=02:00:00:00:00:01,ifname=lan0,priority=-3,guard=false,isolate,ingress-rate=10M,egress-rate=x")
	f.Add("name=lab,,=,ip")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseNetworkFlag(s)
		if err == nil && (e.Network == "" || strings.ContainsAny(e.Network, ",=")) {
			t.Errorf("%q gave network %q", s, e.Network)
		}
	})
}

func TestRates(t *testing.T) {
	for text, want := range map[string]string{
		"10M": "10M", "10mbit": "10M", "10Mbit/s": "10M", "10000000": "10M", "1500k": "1500k", "1.5M": "1500k", "1g": "1G", "1001": "1001",
		"": "error", "0": "error", "-1M": "error", "10MBps": "error", "10Mi": "error", "1e400": "error", "nan": "error", "M": "error", "10kk": "error", "10bitM": "error",
	} {
		var r rate
		got := "error"
		if err := r.Set(text); err == nil {
			got = r.String()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestListsOfValues(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "a": "a", "a,b": "a b", "a, b": "a b", ",": "error", "a,": "error", "a,,b": "error", "a\nb": "error", "a\r": "error",
	} {
		var all []string
		got := "error"
		if err := (listed{&all}).Set(text); err == nil {
			got = strings.Join(all, " ")
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestLimitsForPeople(t *testing.T) {
	b := api.Bandwidth{IngressRate: 10_000_000, EgressRate: 1_500_000, EgressBurst: 1<<32 - 1}
	const want = "ingress 10Mbit/s; egress 1500kbit/s, bursts of 4294967295bit"
	if got := strings.Join(limitTexts(&b), "; "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What is published is the daemon's to judge: it arrives as it was typed, whatever that is.
func FuzzPublishFlag(f *testing.F) {
	_, socket := startFake(f)
	f.Add("8080:80")
	f.Add("[fd00::1]:8080-8090:80-90/udp,x=y \x00")
	f.Fuzz(func(t *testing.T, s string) {
		c := newRun(testApp(socket, &bytes.Buffer{}, &bytes.Buffer{}))
		if err := c.ParseFlags([]string{"-p", s, "--publish=" + s, "--", "-p"}); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		got, err := c.Flags().GetStringArray("publish")
		if want := []string{s, s}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%q arrived as %q, %v", s, got, err)
		}
	})
}

func TestSettingsByPrecedence(t *testing.T) {
	file := t.TempDir() + "/config.yaml"
	write(t, file, "socket: /from/file\nlog: other\n")
	for _, c := range []struct{ flag, env, file, want string }{
		{"/from/flag", "/from/env", file, "/from/flag"},
		{"", "/from/env", file, "/from/env"},
		{"", "", file, "/from/file"},
		{"", "", "/no/such/file", api.DefaultSocket},
	} {
		a := &app{socketFlag: c.flag, configFile: c.file, getenv: func(string) string { return c.env }}
		if err := a.loadConfig(); err != nil || a.config.Socket != c.want {
			t.Errorf("%+v: socket %q, error %v", c, a.config.Socket, err)
		}
	}
	write(t, file, "socket: [")
	a := &app{configFile: file, getenv: func(string) string { return "" }}
	if err := a.loadConfig(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("broken file: %v", err)
	}
}

// A word behind a switch of a network belongs to it; nothing else is touched, least of all what a workload is started with.
func TestSwitchesTakeTheWordBehindThem(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"net set lab --guard off --nat on", "net set lab --guard=off --nat=on"},
		{"--socket /s network create --masquerade no lab", "--socket /s network create --masquerade=no lab"},
		{"--socket=/s net set --guard lab", "--socket=/s net set --guard lab"},
		{"net set on --guard", "net set on --guard"},
		{"net set --label on off", "net set --label on off"},
		{"run -- net set --guard on", "run -- net set --guard on"},
		{"net rm --guard on", "net rm --guard on"},
		{"--socket", "--socket"},
		{"net", "net"},
	} {
		if got := strings.Join(joinSwitches(strings.Fields(c.line)), " "); got != c.want {
			t.Errorf("%s: got %s", c.line, got)
		}
	}
	cmd := newNetSet(testApp("/none", &bytes.Buffer{}, &bytes.Buffer{}))
	for _, name := range switchNames {
		if f := cmd.Flags().Lookup(name); f == nil || f.NoOptDefVal == "" {
			t.Errorf("net set has no switch --%s", name)
		}
	}
	for line := range strings.Lines(switchUsages(cmd.Flags().FlagUsages())) {
		words := strings.Fields(line)
		if strings.Contains(line, " [on|off] ") && !slices.Contains(switchNames[:], strings.TrimPrefix(words[0], "--")) {
			t.Errorf("%s is not among the switches", words[0])
		}
	}
}

func TestRangesAsPrefixes(t *testing.T) {
	subnet := api.SubnetSpec{Subnet: "10.8.0.0/24", Gateway: "10.8.0.1"}
	for _, c := range []struct{ text, want string }{
		{"10.8.0.128/25", "10.8.0.128/25"},
		{"10.8.0.128/255.255.255.128", "10.8.0.128/25"},
		{"10.8.0.128-10.8.0.255", "10.8.0.128/25"},
		{"10.8.0.128-10.8.0.254", "10.8.0.128/25"},
		{"10.8.0.2 - 10.8.0.254", "10.8.0.0/24"},
		{"10.8.0.2-10.8.0.63", "10.8.0.0/26"},
		{"10.8.0.9-10.8.0.9", "10.8.0.9/32"},
		{"10.8.0.129-10.8.0.254", "the largest one in it: 10.8.0.160/27 (10.8.0.160 to 10.8.0.191), the one around it: 10.8.0.128/25 (10.8.0.128 to 10.8.0.255)"},
		{"10.8.0.100-10.8.0.200", "10.8.0.128/26 (10.8.0.128 to 10.8.0.191)"},
		{"10.8.0.9-10.8.0.8", "want a prefix"},
		{"10.8.0.9-fd00::1", "want a prefix"},
		{"fd00::100-fd00::1ff", "fd00::100/120"},
		{"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"},
		{"255.255.255.254-255.255.255.255", "255.255.255.254/31"},
		{"auto", "auto"},
	} {
		got, err := rangePrefix(subnet, c.text)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: got %s", c.text, got)
		}
	}
}

func TestNaturalOrder(t *testing.T) {
	names := []string{"web10", "web2", "web1", "10.8.0.10", "10.8.0.9", "", "a"}
	slices.SortFunc(names, compareNatural)
	if want := []string{"", "10.8.0.9", "10.8.0.10", "a", "web1", "web2", "web10"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

// What was given is written once more such that a shell and the flags read the same.
func TestFlagsOnceMore(t *testing.T) {
	root := newRoot(testApp("/none", &bytes.Buffer{}, &bytes.Buffer{}))
	cmd, rest, err := root.Find([]string{"cni", "install", "--wait", "60s", "--force", "--socket=/run/b c/s", "--network", "b,a", "--name=it's", "--replace", "x", "--bin-dir", "", "--dry-run=false"})
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	const want = ` --bin-dir '' --dry-run=false --force --name 'it'\''s' --network b,a --socket '/run/b c/s' --wait 1m0s`
	if got := again(cmd.Flags(), "replace"); err != nil || got != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}

// Every command shows a real example in its help, and every example is a command line that its flags take.
func TestEveryCommandHasAnExample(t *testing.T) {
	a := testApp("/none", &bytes.Buffer{}, &bytes.Buffer{})
	root := newRoot(a)
	todo := root.Commands()
	for len(todo) > 0 {
		cmd := todo[0]
		todo = append(todo[1:], cmd.Commands()...)
		if !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: example %q is of another command", cmd.CommandPath(), cmd.Example)
		}
		for line := range strings.Lines(cmd.Example) {
			line, _, _ = strings.Cut(line, "&&")
			line, _, _ = strings.Cut(line, ">")
			line, _, _ = strings.Cut(line, "|")
			words := strings.Fields(line)
			i := slices.Index(words, "flatnet")
			if i < 0 {
				continue
			}
			found, rest, err := root.Find(words[i+1:])
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err != nil && !strings.Contains(line, "<(") {
				t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
			}
		}
	}
}

func TestColourOnlyOnTerminals(t *testing.T) {
	a := testApp("/none", &bytes.Buffer{}, &bytes.Buffer{})
	if code := a.main(context.Background(), []string{"status"}); code != api.ExitUnreachable {
		t.Errorf("exit %d", code)
	}
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	for env, want := range map[string]bool{"": true, "1": false} {
		b := &app{stderr: tty, getenv: func(k string) string { return map[string]string{"NO_COLOR": env}[k] }}
		if got := strings.Contains(b.paint("error"), "\x1b"); got != want {
			t.Errorf("NO_COLOR=%q: coloured %v", env, got)
		}
	}
	if strings.Contains(a.paint("error"), "\x1b") {
		t.Error("colour in a pipe")
	}
}
