package kernel

import (
	"testing"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// A kernel without IPv6 (ipv6.disable=1) tells no mode. What is not to be quiet would else be changed there for ever, by a file that is not there.
func TestWithoutIPv6NothingIsQuiet(t *testing.T) {
	for mode, quiet := range map[string]bool{"": false, "\x00": false, "\x01": true} {
		if c := (conf{addrGenMode: netlink.Attr(mode)}); c.quiet() != quiet {
			t.Errorf("mode %q: quiet %t", mode, c.quiet())
		}
	}
}
