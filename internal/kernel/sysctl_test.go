package kernel

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// TestConfPlaces compares the places of sysctls in links' messages with their files, for values as unlike as can be set.
func TestConfPlaces(t *testing.T) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for family, places := range map[string]map[string]int{"ipv4": confPlaces4, "ipv6": confPlaces6} {
		keys := append(slices.Sorted(maps.Keys(places)), "addr_gen_mode")
		for _, key := range keys {
			name := fmt.Sprintf("net/%s/conf/lo/%s", family, key)
			place, ok := placeOf(key, family == "ipv6")
			if _, err := os.Stat(procSys + "/" + name); err != nil || !ok {
				if ok {
					t.Logf("%s: not of this kernel", name)
				}
				continue
			}
			for _, value := range []string{"0", "1", "2", "1281"} {
				if writeSysctl(name, value) != nil {
					continue // not a value of this one
				}
				want, err := readSysctl(name)
				if err != nil {
					t.Fatal(err)
				}
				got := "nothing"
				err = dumpLinks(c, func() {}, func(l link) {
					if v, ok := l.conf.value(place); ok && l.Name == "lo" {
						got = v
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				if got != want {
					t.Errorf("%s: message %s, file %s", name, got, want)
				}
			}
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(append(infoMsg(1, 0, 0), "\x0c\x00\x14\x00flatnet "...)) // IFLA_IFALIAS
	f.Add(slices.Repeat([]byte{8, 0, 1, 0, 1, 2, 3, 4}, 12))
	f.Fuzz(func(t *testing.T, p []byte) {
		names := map[int]string{}
		if l, ok := parseLink(p); ok {
			l.object(names)
			l.conf.value(confPlace{at: 3})
		}
		if r, ok := parseRoute(p); ok {
			_ = r.object(names).String()
			r.isFact()
		}
		if a, ok := parseAddress(p); ok && !a.prefix.IsValid() {
			t.Errorf("invalid prefix %v", a.prefix)
		}
		if l, ok := parseListedLink(p); ok {
			l.among(nil)
		}
		parseListedRoute(p, names)
		parseNeighbour(p, names)
		parseListener(p)
		parseConnection(p)
	})
}

func TestSysctlNamesStayBelowProcSys(t *testing.T) {
	for _, name := range []string{"", "/etc/passwd", "../x", "net/../../etc", "a//b", "net/ipv4/"} {
		if file, err := sysctlFile(name); err == nil {
			t.Errorf("%q is taken as %s", name, file)
		}
	}
}
