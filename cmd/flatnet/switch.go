package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// onOff is a switch that can be left as it is. All switches of a network are given in the same ways: --guard, --guard on, --guard=off.
type onOff struct{ is *bool }

func (o *onOff) String() string {
	switch {
	case o.is == nil:
		return ""
	case *o.is:
		return "on"
	}
	return "off"
}

// Set reads on and off, and what people write for them.
func (o *onOff) Set(text string) error {
	on, ok := readOnOff(text)
	if !ok {
		return errors.New("want on or off")
	}
	o.is = &on
	return nil
}

// Type is what the help shows.
func (o *onOff) Type() string { return "on|off" }

// isOn reports whether the switch was given, and on.
func (o *onOff) isOn() bool { return o.is != nil && *o.is }

func readOnOff(text string) (on, ok bool) {
	on = slices.Contains([]string{"on", "true", "yes", "1"}, text)
	return on, on || slices.Contains([]string{"off", "false", "no", "0"}, text)
}

// opposite is the switch of the other name: --no-guard is --guard off.
type opposite struct{ of *onOff }

func (o opposite) String() string { return "" }
func (o opposite) Type() string   { return "bool" }

// Set is the opposite of what is said.
func (o opposite) Set(text string) error {
	if err := o.of.Set(text); err != nil {
		return err
	}
	off := !*o.of.is
	o.of.is = &off
	return nil
}

// flagValue is what reads a flag.
type flagValue interface {
	String() string
	Set(string) error
	Type() string
}

// switchFlag is a switch that is on when nothing is said behind it.
func switchFlag(cmd *cobra.Command, v flagValue, name, usage string) {
	cmd.Flags().VarPF(v, name, "", usage).NoOptDefVal = "true"
}

// switchNames are the switches of networks, whose on or off may stand behind a space.
var switchNames = [...]string{"nat", "masquerade", "proxy-arp", "host-adapter", "guard", "isolate-ports", "ipv6", "autostart", "no-host-adapter", "no-guard", "no-ipv6", "direct-routing", "checksum"}

// joinSwitches makes --guard off one word, as the flag alone means something already.
func joinSwitches(args []string) []string {
	i := 0
	for i < len(args) && strings.HasPrefix(args[i], "--socket") {
		i++
		if args[i-1] == "--socket" {
			i++
		}
	}
	if i+1 >= len(args) || !slices.Contains([]string{"net", "network", "networks"}, args[i]) || !slices.Contains([]string{"create", "define", "set"}, args[i+1]) {
		return args
	}
	joined := slices.Clone(args[:i])
	for ; i < len(args); i++ {
		name, isFlag := strings.CutPrefix(args[i], "--")
		if isFlag && i+1 < len(args) && slices.Contains(switchNames[:], name) {
			if _, ok := readOnOff(args[i+1]); ok {
				joined = append(joined, args[i]+"="+args[i+1])
				i++
				continue
			}
		}
		joined = append(joined, args[i])
	}
	return joined
}

// oneName wants the name of one network, and knows what is behind a second word.
func oneName(cmd *cobra.Command, args []string) error {
	err := cobra.ExactArgs(1)(cmd, args)
	switch {
	case err == nil:
		return nil
	case len(args) > 1 && cmd.Flags().NFlag() > 0:
		return usageError{cmd, fmt.Errorf("one network, not %q; a switch takes on or off", args)}
	}
	return usageError{cmd, fmt.Errorf("got %d arguments; usage: %s", len(args), cmd.UseLine())}
}

// switchUsages shows that a switch may stand alone, in as many columns as what the flags' help has.
func switchUsages(usages string) string {
	return strings.ReplaceAll(usages, "on|off[=true]", "[on|off]     ")
}
