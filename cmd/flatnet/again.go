package main

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// again are the flags that were given, but for some, as they are written once more behind a command.
func again(flags *pflag.FlagSet, but ...string) string {
	var b strings.Builder
	flags.Visit(func(f *pflag.Flag) {
		if slices.Contains(but, f.Name) {
			return
		}
		values := []string{f.Value.String()}
		if several, is := f.Value.(pflag.SliceValue); is {
			values = several.GetSlice()
		}
		for _, v := range values {
			b.WriteString(" --" + f.Name)
			switch {
			case f.NoOptDefVal == "":
				b.WriteString(" " + shellWord(v))
			case f.NoOptDefVal != v:
				b.WriteString("=" + shellWord(v))
			}
		}
	})
	return b.String()
}

// shellWord is a text as a shell reads it as one word: in quotes where it would take it apart.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:,@%=", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
