package api

import (
	"fmt"
	"io"
	"strings"
)

// Write prints the problems as a terminal shows them: cause, place, owner and fix of each, and last the exit status. The word
// stands before each: error, perhaps coloured.
func (e *Error) Write(w io.Writer, word string) {
	for i, p := range e.Problems {
		p.Write(w, word)
		more := ""
		if p.Code != "" {
			more = "more: flatnet help " + p.Code
		}
		if i == len(e.Problems)-1 {
			fmt.Fprint(w, LastLine(more, e.Exit))
		} else {
			fmt.Fprintf(w, "  %s\n", more)
		}
	}
}

// Write prints cause, place, owner and fix.
func (p Problem) Write(w io.Writer, word string) {
	if p.Code != "" {
		word += " " + p.Code
	}
	fmt.Fprintf(w, "%s: %s\n", word, IndentRest(p.Reason))
	switch {
	case p.File != "" && p.Path != "":
		fmt.Fprintf(w, "  at %s: %s\n", p.File, p.Path)
	case p.File+p.Path != "":
		fmt.Fprintf(w, "  at %s\n", p.File+p.Path)
	}
	if p.Owner != "" {
		fmt.Fprintf(w, "  %s\n", IndentRest(p.Owner))
	}
	label := "example: "
	if strings.HasPrefix(p.Example, "flatnet ") || strings.HasPrefix(p.Example, "sudo flatnet ") {
		label = "retry: "
	}
	switch {
	case p.Fix != "" && p.Example != "" && len(p.Fix)+len(p.Example) < 80:
		fmt.Fprintf(w, "  %s      %s%s\n", p.Fix, label, p.Example)
	case p.Fix != "" && p.Example != "":
		fmt.Fprintf(w, "  %s\n  %s%s\n", IndentRest(p.Fix), label, p.Example)
	case p.Fix != "":
		fmt.Fprintf(w, "  %s\n", IndentRest(p.Fix))
	case p.Example != "":
		fmt.Fprintf(w, "  %s%s\n", label, p.Example)
	}
}

// IndentRest puts all lines but the first below the first's text.
func IndentRest(s string) string {
	return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ")
}

// LastLine has the exit status at the right.
func LastLine(more string, exit int) string {
	return fmt.Sprintf("  %-80s (exit %d)\n", more, exit)
}
