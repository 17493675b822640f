package api

import (
	"embed"
	"slices"
	"strings"
)

//go:embed help/FN*.md
var helpPages embed.FS

// HelpPage is the page of a code: what it means, how to see it oneself, how to repair it.
func HelpPage(code string) (string, bool) {
	text, err := helpPages.ReadFile("help/" + strings.ToUpper(code) + ".md")
	return string(text), err == nil
}

// HelpCodes are the codes that have a page, in order.
func HelpCodes() []string {
	entries, _ := helpPages.ReadDir("help") // an embedded directory is always readable
	codes := make([]string, len(entries))
	for i, e := range entries {
		codes[i] = strings.TrimSuffix(e.Name(), ".md")
	}
	slices.Sort(codes)
	return codes
}

// HelpTitle is the first line of a code's page, without its mark.
func HelpTitle(code string) string {
	text, _ := HelpPage(code)
	line, _, _ := strings.Cut(text, "\n")
	_, title, _ := strings.Cut(line, ": ")
	return title
}
