package kernel

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBadChecksumsOfBothFamilies(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"snmp":  "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\nUdp: 9 1 7 9 0 0 5 0 0\nUdpLite: InDatagrams InCsumErrors\nUdpLite: 3 4\n",
		"snmp6": "Udp6InErrors                    \t3\nUdp6InCsumErrors                \t2\nUdpLite6InCsumErrors            \t8\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := badChecksums(dir); got != 7 {
		t.Errorf("got %d, want 5 of IPv4 and 2 of IPv6", got)
	}
	if got := badChecksums(filepath.Join(dir, "none")); got != 0 {
		t.Errorf("got %d of nothing", got)
	}
}
