package reach

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const specification = "../../docs/reference/reachability.md"

// table is a table of the specification: rows by their first column, cells by their column's title.
type table struct {
	columns []string
	rows    map[string]map[string]string
	read    map[string]bool // cells that were asked for
}

// readTable returns the table whose first column has that title.
func readTable(t *testing.T, title string) table {
	t.Helper()
	text, err := os.ReadFile(specification)
	if err != nil {
		t.Fatal(err)
	}
	tab := table{rows: map[string]map[string]string{}, read: map[string]bool{}}
	for line := range strings.Lines(string(text)) {
		cells := splitRow(line)
		switch {
		case cells == nil && tab.columns != nil:
			return tab
		case cells == nil, strings.HasPrefix(cells[0], "--"):
		case tab.columns == nil && cells[0] == title:
			tab.columns = cells
		case tab.columns != nil:
			tab.add(t, cells)
		}
	}
	if tab.columns == nil {
		t.Fatalf("%s: no table with a first column %q", specification, title)
	}
	return tab
}

func splitRow(line string) []string {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "|") {
		return nil
	}
	cells := strings.Split(strings.Trim(line, "|"), "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	return cells
}

func (tab *table) add(t *testing.T, cells []string) {
	t.Helper()
	if len(cells) != len(tab.columns) {
		t.Fatalf("%s: row %q has %d cells, want %d", specification, cells[0], len(cells), len(tab.columns))
	}
	row := map[string]string{}
	for i, c := range cells[1:] {
		row[tab.columns[i+1]] = c
	}
	tab.rows[cells[0]] = row
}

// cell returns what stands there, and fails for what the tests do not know the meaning of.
func (tab table) cell(row, column string) (string, error) {
	c, ok := tab.rows[row][column]
	if !ok {
		return "", fmt.Errorf("%s: no cell %q of %q", specification, column, row)
	}
	tab.read[row+": "+column] = true
	return c, nil
}

// unread are the cells that say something and that nobody asked for.
func (tab table) unread() []string {
	var all []string
	for row, cells := range tab.rows {
		for column, c := range cells {
			if c != "–" && !tab.read[row+": "+column] {
				all = append(all, row+": "+column)
			}
		}
	}
	slices.Sort(all)
	return all
}
