package main

import (
	"errors"
	"fmt"
	"strings"
)

// listed are the values of a flag that is repeated, or has commas between them. An empty value is none: a script's variable that is not set.
type listed struct{ to *[]string }

func (l listed) String() string {
	if l.to == nil {
		return ""
	}
	return strings.Join(*l.to, ",")
}

// Type is what the help shows.
func (l listed) Type() string { return "strings" }

// Set adds what is written, and refuses what was hardly meant: an empty place between commas, and more than one line.
func (l listed) Set(text string) error {
	if text == "" {
		return nil
	}
	if strings.ContainsAny(text, "\r\n") {
		return errors.New("want one line; several values have commas between, or the flag is repeated")
	}
	values := strings.Split(text, ",")
	for i, v := range values {
		if values[i] = strings.TrimSpace(v); values[i] == "" {
			return fmt.Errorf("value %d of %d is empty", i+1, len(values))
		}
	}
	*l.to = append(*l.to, values...)
	return nil
}
