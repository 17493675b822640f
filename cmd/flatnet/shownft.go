package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// showNFT prints flatnet's nft tables as `nft list` does, and beside each line what it is for.
type showNFT struct{ showing }

func newShowNFT(a *app) *cobra.Command {
	c := &showNFT{showing{app: a}}
	cmd := command(a, "nft [flags]", "flatnet's nft tables as nft list writes them, with what each line is for",
		"flatnet show nft --workload web\nflatnet show nft --network lab\nflatnet show nft -o wide", cobra.NoArgs, c.run)
	cmd.Aliases = []string{"nftables", "rules"}
	cmd.Long = "The rules are the same on every host and never change; networks, workloads and forwards are elements of the sets they look things up in.\n" +
		"Beside a rule stands why it is there and the networks it speaks of now. The text can be read by nft -f. -o wide is one line for each."
	c.flags(cmd)
	cmd.Flags().StringVarP(&c.workload, "workload", "w", "", "only the elements for this workload")
	_ = cmd.RegisterFlagCompletionFunc("workload", a.complete(workloadNames))
	return cmd
}

func (c *showNFT) run(ctx context.Context, _ []string, stdout io.Writer) error {
	objects, err := c.app.client().NFT(ctx)
	if err != nil {
		return err
	}
	objects = c.chosen(objects)
	l := c.list
	if l.output != "" || l.format != "" || l.quiet || l.sortBy != "" || l.noHeaders {
		return nftTable().show(stdout, l, objects)
	}
	return writeNFT(stdout, objects)
}

func nftTable() table[api.NFTObject] {
	return table[api.NFTObject]{
		columns: []column[api.NFTObject]{
			{"FAMILY", false, func(o api.NFTObject) string { return o.Family }},
			{"KIND", false, func(o api.NFTObject) string { return o.Kind }},
			{"IN", false, func(o api.NFTObject) string { return o.Name }},
			{"TEXT", false, func(o api.NFTObject) string { return o.Text }},
			{"FOR", false, nftPurpose},
		},
		name: nftName,
	}
}

func nftName(o api.NFTObject) string {
	name := fmt.Sprintf("%s %s %s", o.Kind, o.Family, o.Name)
	if o.Kind == "rule" || o.Kind == "element" {
		name += " " + o.Text
	}
	return name
}

// chosen leaves what is for the network or the workload asked for, and what that stands in.
func (c *showNFT) chosen(objects []api.NFTObject) []api.NFTObject {
	if c.network == "" && c.workload == "" {
		return objects
	}
	type place struct{ family, kind, name string }
	kept := map[place]bool{}
	for _, o := range objects {
		if c.isFor(o) {
			kept[place{o.Family, o.Kind, o.Name}] = true
			kept[place{family: o.Family}] = true
		}
	}
	return slices.DeleteFunc(objects, func(o api.NFTObject) bool {
		switch o.Kind {
		case "table":
			return !kept[place{family: o.Family}]
		case "chain":
			return !kept[place{o.Family, "rule", o.Name}]
		case "set", "map":
			return !kept[place{o.Family, "element", o.Name}]
		}
		return !c.isFor(o)
	})
}

func (c *showNFT) isFor(o api.NFTObject) bool {
	return (o.Kind == "rule" || o.Kind == "element") && (c.network == "" || slices.Contains(o.Networks, c.network)) &&
		(c.workload == "" || slices.Contains(o.Workloads, c.workload))
}

// nftPurpose says what a line is for.
func nftPurpose(o api.NFTObject) string {
	switch {
	case o.Stray:
		return "nobody asked for this: see flatnet plan"
	case o.Kind == "rule" && o.Idle:
		return strings.TrimSpace(o.Comment + " (none now)")
	case o.Kind == "rule":
		return strings.TrimSpace(o.Comment + inBrackets(few("network", o.Networks)))
	case o.Kind != "element":
		return ""
	}
	var parts []string
	for _, p := range []string{few("forward", o.Forwards), few("workload", o.Workloads), few("network", o.Networks)} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ", ")
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// mostNames bounds how many names stand beside a line.
const mostNames = 4

func few(kind string, names []string) string {
	switch n := len(names); {
	case n == 0:
		return ""
	case n == 1:
		return kind + " " + names[0]
	case n > mostNames:
		return fmt.Sprintf("%ss %s and %d more", kind, strings.Join(names[:mostNames-1], ", "), n-mostNames+1)
	}
	return kind + "s " + strings.Join(names, ", ")
}

// nftLine is one line of a listing with its remark.
type nftLine struct{ text, remark string }

// writeNFT writes what nft -f could read: remarks stand behind #.
func writeNFT(w io.Writer, objects []api.NFTObject) error {
	var b strings.Builder
	inTable := false
	for i := 0; i < len(objects); {
		o := objects[i]
		i++
		if o.Kind == "table" {
			if inTable {
				b.WriteString("}\n\n")
			}
			inTable = true
			fmt.Fprintf(&b, "%s {\n", o.Text)
			continue
		}
		var lines []nftLine
		for ; i < len(objects) && (objects[i].Kind == "element" || objects[i].Kind == "rule"); i++ {
			lines = append(lines, nftLine{objects[i].Text, nftPurpose(objects[i])})
		}
		writeNFTBlock(&b, o, lines)
	}
	if inTable {
		b.WriteString("}\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeNFTBlock(b *strings.Builder, o api.NFTObject, lines []nftLine) {
	fmt.Fprintf(b, "\t%s %s {\n", o.Kind, o.Name)
	if o.Text != "" {
		fmt.Fprintf(b, "\t\t%s\n", o.Text)
	}
	if o.Kind == "chain" {
		writeNFTLines(b, "\t\t", lines)
	} else if len(lines) > 0 {
		for i := range lines {
			lines[i].text += ","
		}
		b.WriteString("\t\telements = {\n")
		writeNFTLines(b, "\t\t\t", lines)
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

// widestRemark is the column behind which remarks are not lined up any more.
const widestRemark = 60

func writeNFTLines(b *strings.Builder, indent string, lines []nftLine) {
	width := 0
	for _, l := range lines {
		if n := utf8.RuneCountInString(l.text); n <= widestRemark {
			width = max(width, n)
		}
	}
	for _, l := range lines {
		b.WriteString(indent + l.text)
		if l.remark != "" {
			b.WriteString(strings.Repeat(" ", max(width-utf8.RuneCountInString(l.text), 0)) + "  # " + l.remark)
		}
		b.WriteString("\n")
	}
}
