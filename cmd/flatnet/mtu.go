package main

import (
	"errors"
	"strconv"
)

// mtu is a flag's value in bytes. 0 is the uplink's, or what its tunnel leaves of it.
type mtu int

// Type is what the flag's value is called in the help.
func (m *mtu) Type() string { return "BYTES" }

func (m *mtu) String() string {
	if *m == 0 {
		return "" // no default to show
	}
	return strconv.Itoa(int(*m))
}

// Set reads bytes, or auto.
func (m *mtu) Set(s string) error {
	if s == "auto" {
		*m = 0
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return errors.New("want bytes, for example 1400, or auto")
	}
	*m = mtu(n)
	return nil
}

const mtuUsage = "1400 for example; auto follows the uplink"
