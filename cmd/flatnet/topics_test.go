package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"
)

// namedCommands are the command lines that a page tells to type: the second cell of a table's row, what ends the
// third one behind a colon, or an indented line. elsewhere are lines that speak of one where none can be read.
func namedCommands(text string) (lines, elsewhere []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if cells, ok := tableRow(line); ok {
			if len(cells) == 3 && strings.HasPrefix(cells[1], "flatnet ") {
				lines = append(lines, strings.Split(cells[1], "; ")...)
			}
			if len(cells) == 3 {
				if _, remark, ok := strings.Cut(cells[2], ": flatnet "); ok {
					lines = append(lines, "flatnet "+remark)
				}
			}
			continue
		}
		if strings.HasPrefix(strings.TrimSpace(line), "flatnet ") && strings.HasPrefix(line, "    ") {
			lines = append(lines, strings.TrimSpace(line))
		} else if regexp.MustCompile(`flatnet [a-z]+ (--?|[a-z]+ )`).MatchString(line) {
			elsewhere = append(elsewhere, line)
		}
	}
	return lines, elsewhere
}

// Whoever comes from elsewhere is told of commands that there are, with flags that they take.
func TestPagesNameCommandsThatThereAre(t *testing.T) {
	for _, topic := range topics() {
		from, ok := strings.CutPrefix(topic, "from ")
		if !ok {
			continue
		}
		text, err := topicPages.ReadFile("topics/from-" + from + ".md")
		if err != nil {
			t.Fatal(err)
		}
		lines, elsewhere := namedCommands(string(text))
		for _, line := range elsewhere {
			t.Errorf("%s: a command stands where nobody checks it: %s", topic, line)
		}
		if len(lines) < 10 {
			t.Errorf("%s: only %d commands were found", topic, len(lines))
		}
		for _, line := range lines {
			checkCommand(t, topic, line)
		}
	}
}

func checkCommand(t *testing.T, topic, line string) {
	t.Helper()
	words, ok := strings.CutPrefix(line, "flatnet ")
	if !ok {
		t.Errorf("%s: %q is no flatnet command", topic, line)
		return
	}
	root := newRoot(testApp("/none", &bytes.Buffer{}, &bytes.Buffer{})) // anew, as flags keep what was parsed
	if topics, ok := strings.CutPrefix(words, "help "); ok {            // cobra adds it only when it runs
		if err := (&help{root}).run(t.Context(), strings.Fields(topics), io.Discard); err != nil {
			t.Errorf("%s: %q: %v", topic, line, err)
		}
		return
	}
	cmd, args, err := root.Find(joinSwitches(splitWords(words)))
	if err == nil {
		err = cmd.ParseFlags(args)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err != nil || !cmd.Runnable() || cmd.HasAvailableSubCommands() {
		t.Errorf("%s: %q: %v", topic, line, err)
	}
}

// Every word that a table tells of other tools is told once.
func TestPagesSayEachThingOnce(t *testing.T) {
	for _, topic := range topics() {
		if !strings.HasPrefix(topic, "from ") {
			continue
		}
		text, err := topicPages.ReadFile("topics/" + strings.ReplaceAll(topic, " ", "-") + ".md")
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for line := range strings.Lines(string(text)) {
			cells, ok := tableRow(line)
			if !ok || cells == nil {
				continue
			}
			if len(cells) != 3 || cells[0] == "" || cells[1] == "" {
				t.Errorf("%s: %d cells in %s", topic, len(cells), line)
			}
			if seen[cells[0]] && !strings.HasPrefix(cells[0], "they ") {
				t.Errorf("%s: twice: %s", topic, cells[0])
			}
			seen[cells[0]] = true
		}
	}
}

// Whoever asks by a word of another tool, or of the field, gets a page; one that a tool's name leads to speaks of that tool.
func TestHelpKnowsWordsOfOthers(t *testing.T) {
	words := []string{"from libvirt", "from kvm", "from ovs", "from openvswitch", "from podman", "from iptables", "from ip netns", "from virtualbox", "from Docker",
		"nat", "NAT", "bridged", "routed", "host-only", "isolated", "vmnet8", "VMnet0", "dhcp", "vlan", "masquerade", "proxy-arp", "uplink", "gateway"}
	for tool := range toolPages() {
		words = append(words, "from "+tool)
	}
	for word := range wordNotes() {
		words = append(words, word)
	}
	for _, word := range words {
		var out bytes.Buffer
		root := newRoot(testApp("/none", &bytes.Buffer{}, &bytes.Buffer{}))
		if err := (&help{root}).run(t.Context(), strings.Fields(word), &out); err != nil || out.Len() < 1000 {
			t.Errorf("help %s: %d bytes, %v", word, out.Len(), err)
		}
	}
}

// What a command is called explains the command, whoever else has the word too.
func TestHelpOfACommandIsTheCommands(t *testing.T) {
	root := newRoot(testApp("/none", &bytes.Buffer{}, &bytes.Buffer{}))
	for _, cmd := range root.Commands() {
		var out bytes.Buffer
		if err := (&help{root}).run(t.Context(), []string{cmd.Name()}, &out); err != nil || !strings.Contains(out.String(), cmd.Short) {
			t.Errorf("help %s: %v\n%s", cmd.Name(), err, &out)
		}
	}
}
