package main

import (
	"context"
	"embed"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

//go:embed topics/*.md
var topicPages embed.FS

// help explains commands, codes and topics.
type help struct{ root *cobra.Command }

func newHelp(a *app, root *cobra.Command) *cobra.Command {
	c := &help{root: root}
	cmd := command(a, "help [COMMAND|CODE|TOPIC]", "explain a command, a code or a topic", "flatnet help FN2107\nflatnet help from docker", cobra.ArbitraryArgs, c.run)
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return append(api.HelpCodes(), topics()...), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

var codeForm = regexp.MustCompile(`^(?i:fn)?\d{4}$`)

func (c *help) run(_ context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return usage(c.root, stdout)
	}
	if codeForm.MatchString(args[0]) {
		return c.code(args[0], stdout)
	}
	if args[0] == "codes" {
		for _, code := range api.HelpCodes() {
			fmt.Fprintf(stdout, "%s  %s\n", code, api.HelpTitle(code))
		}
		return nil
	}
	if args[0] == "topics" {
		fmt.Fprintln(stdout, strings.Join(append(topics(), "codes"), "\n"))
		return nil
	}
	if text, err := topicPages.ReadFile("topics/" + strings.Join(args, "-") + ".md"); err == nil {
		return writePage(stdout, string(text))
	}
	cmd, rest, err := c.root.Find(args)
	if err != nil || len(rest) > 0 || cmd == c.root {
		if known, err := explainWord(stdout, strings.Join(args, " ")); known {
			return err
		}
		return badUsage("there is no command, code or topic %q; topics: %s", strings.Join(args, " "), strings.Join(topics(), ", "))
	}
	return usage(cmd, stdout)
}

func (c *help) code(code string, stdout io.Writer) error {
	code = "FN" + code[len(code)-4:]
	text, ok := api.HelpPage(code)
	if !ok {
		return badUsage("there is no code %s; all codes: flatnet help codes", code)
	}
	_, err := io.WriteString(stdout, text)
	return err
}

// writePage prints a page with the columns of its tables lined up.
func writePage(w io.Writer, text string) error {
	var rows [][]string
	flush := func() error {
		defer func() { rows = nil }()
		return writeWrapped(w, rows)
	}
	for line := range strings.Lines(text) {
		cells, ok := tableRow(line)
		if ok {
			if cells != nil {
				rows = append(rows, cells)
			}
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
	}
	return flush()
}

// widestCell is the longest cell that has others beside it, in characters.
const widestCell = 46

// writeWrapped lines columns up as writeRows does, but gives each command of a cell (they stand with ; between) a line of its own,
// and begins a new line behind a cell that is too long to wait for.
func writeWrapped(w io.Writer, rows [][]string) error {
	var lines [][]string
	for _, cells := range rows {
		line, more := []string{}, [][]string{}
		for i, cell := range cells {
			first, others, _ := strings.Cut(cell, "; flatnet ")
			line = append(line, first)
			if others != "" {
				for other := range strings.SplitSeq(others, "; flatnet ") {
					more = append(more, append(make([]string, i), "flatnet "+other))
				}
			}
			if utf8.RuneCountInString(first) > widestCell && i+1 < len(cells) && cells[i+1] != "" {
				lines = append(lines, line)
				line = make([]string, i+1)
			}
		}
		lines = append(append(lines, line), more...)
	}
	return writeColumns(w, lines, widestCell)
}

// tableRow reads a line of a Markdown table: no cells for the one below the headings.
func tableRow(line string) (cells []string, ok bool) {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "|") {
		return nil, false
	}
	if strings.Trim(line, "|- ") == "" {
		return nil, true
	}
	line = strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|")
	for cell := range strings.SplitSeq(line, " |") {
		cells = append(cells, strings.TrimSpace(cell))
	}
	return cells, true
}

// topics are the names of the pages; from-docker is asked for as "from docker".
func topics() []string {
	entries, _ := topicPages.ReadDir("topics") // an embedded directory is always readable
	var names []string
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".md")
		if rest, ok := strings.CutPrefix(name, "from-"); ok {
			name = "from " + rest
		}
		names = append(names, name)
	}
	return names
}
