package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// rate is a flag's value in bits per second, written as tc or as Kubernetes do: 10mbit, 10M. 0 is none.
type rate uint64

// Type is what the flag's value is called in the help.
func (r *rate) Type() string { return "RATE" }

// Set reads a rate. "bps" is bytes to tc and bits to everybody else, so that it is neither here.
func (r *rate) Set(s string) error {
	text := strings.TrimSuffix(strings.ToLower(s), "/s")
	number := strings.TrimRight(strings.TrimSuffix(text, "bit"), "kmgt")
	unit := strings.TrimSuffix(text[len(number):], "bit")
	factor, known := map[string]float64{"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || n <= 0 || n*factor > 1<<60 || math.IsNaN(n) {
		return errors.New("want bits per second, for example 10M, 10mbit or 10000000")
	}
	*r = rate(math.Round(n * factor))
	return nil
}

// String is the rate in the largest unit of which it is a whole number.
func (r *rate) String() string {
	if *r == 0 {
		return ""
	}
	n, unit := uint64(*r), 0
	for units := "kMGT"; n%1000 == 0 && unit < len(units); unit++ {
		n /= 1000
	}
	return fmt.Sprintf("%d%s", n, []string{"", "k", "M", "G", "T"}[unit])
}

// limits are the flags of an endpoint's bandwidth.
type limits struct{ ingress, egress rate }

func (l *limits) flags(cmd *cobra.Command) {
	cmd.Flags().Var(&l.ingress, "ingress-rate", "most that comes to the workload, in bits per second: 10M")
	cmd.Flags().Var(&l.egress, "egress-rate", "most that the workload sends")
}

// with is what an endpoint asks for itself, and the flags for what it leaves open; nil without limits.
func (l *limits) with(own *api.Bandwidth) *api.Bandwidth {
	var b api.Bandwidth
	if own != nil {
		b = *own
	}
	if b.IngressRate == 0 {
		b.IngressRate = uint64(l.ingress)
	}
	if b.EgressRate == 0 {
		b.EgressRate = uint64(l.egress)
	}
	if b == (api.Bandwidth{}) {
		return nil
	}
	return &b
}

// option reads one of --network's options.
func (l *limits) option(key, value string) error {
	r := &l.ingress
	if key == "egress-rate" {
		r = &l.egress
	}
	if err := r.Set(value); err != nil {
		return fmt.Errorf("%s=%q: %w", key, value, err)
	}
	return nil
}

// limitTexts are an endpoint's limits for people.
func limitTexts(b *api.Bandwidth) (texts []string) {
	if b == nil {
		return nil
	}
	for _, d := range []struct {
		name        string
		rate, burst rate
	}{{"ingress", rate(b.IngressRate), rate(b.IngressBurst)}, {"egress", rate(b.EgressRate), rate(b.EgressBurst)}} {
		if d.rate == 0 {
			continue
		}
		text := fmt.Sprintf("%s %sbit/s", d.name, &d.rate)
		if d.burst > 0 {
			text += fmt.Sprintf(", bursts of %sbit", &d.burst)
		}
		texts = append(texts, text)
	}
	return texts
}
