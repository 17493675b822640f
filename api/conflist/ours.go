package conflist

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/flatnet/flatnet/api"
)

// What our configuration says of versions. Runtimes before libcni 1.2 (containerd 1.6 and 1.7, podman 4) read cniVersion and pass over
// cniVersions; their newest is 1.0.0. Later ones take the highest of cniVersions that they know, and with 1.1.0 they ask STATUS and GC.
const (
	Version    = "1.0.0"
	NewVersion = "1.1.0"
)

// Capabilities are what runtimes may hand to our plugin with each container.
func Capabilities() []string {
	return []string{"aliases", "bandwidth", "dns", "ipRanges", "ips", "mac", "portMappings"}
}

// Settings are what a configuration of ours says.
type Settings struct {
	Name       string
	CNIVersion string   // empty: Version, beside NewVersion
	Networks   []string // none: the only cluster network, else the only network, else "default"
	Socket     string   // of a flatnetd that is not at the usual place
}

// wire is a list as it is written.
type wire struct {
	CNIVersion   string            `json:"cniVersion"`
	CNIVersions  []string          `json:"cniVersions,omitempty"`
	Name         string            `json:"name"`
	DisableCheck any               `json:"disableCheck,omitempty"`
	DisableGC    any               `json:"disableGC,omitempty"`
	Args         any               `json:"args,omitempty"`
	WrittenBy    string            `json:"writtenBy,omitempty"`
	Plugins      []json.RawMessage `json:"plugins"`
}

// part is our plugin's.
type part struct {
	Type         string          `json:"type"`
	Network      string          `json:"network,omitempty"`
	Networks     []string        `json:"networks,omitempty"`
	IPs          []string        `json:"ips,omitempty"`
	DNS          map[string]any  `json:"dns,omitempty"`
	Bandwidth    *api.Bandwidth  `json:"bandwidth,omitempty"`
	Socket       string          `json:"socket,omitempty"`
	Capabilities map[string]bool `json:"capabilities"`
}

func (s Settings) part() part {
	p := part{Type: PluginType, Socket: s.Socket, Capabilities: map[string]bool{}}
	if len(s.Networks) == 1 {
		p.Network = s.Networks[0]
	} else {
		p.Networks = s.Networks
	}
	for _, c := range Capabilities() {
		p.Capabilities[c] = true
	}
	return p
}

// Text is the configuration, signed.
func (s Settings) Text() []byte {
	w := wire{CNIVersion: s.CNIVersion, Name: s.Name, Plugins: []json.RawMessage{raw(s.part())}}
	if w.CNIVersion == "" {
		w.CNIVersion, w.CNIVersions = Version, []string{Version, NewVersion}
	}
	return Sign(w.text())
}

func (w wire) text() []byte {
	text, _ := json.MarshalIndent(w, "", "  ") // strings, and what was read from JSON
	return append(text, '\n')
}

func raw(v any) json.RawMessage {
	text, _ := json.Marshal(v) // likewise
	return text
}

// signer stands in what `flatnet cni install` wrote, with a sum over all the rest: so a file that somebody edited is known.
const signer = "flatnet cni install, "

// Sign adds who wrote a configuration, and its sum, or brings that up to date. A text that is no list stays as it is.
func Sign(text []byte) []byte {
	var w wire
	var keys map[string]json.RawMessage
	if json.Unmarshal(text, &w) != nil || json.Unmarshal(text, &keys) != nil || len(w.Plugins) == 0 {
		return text
	}
	w.WrittenBy = signer + strings.Repeat("0", sumLength)
	blank := w.text()
	w.WrittenBy = signer + sum(blank)
	return w.text()
}

const sumLength = 16 // hexadecimal digits

func sum(blank []byte) string {
	h := sha256.Sum256(blank)
	return hex.EncodeToString(h[:])[:sumLength]
}

// Written says whether Sign made a text, and whether it is still as it was.
func Written(text []byte) (ours, untouched bool) {
	_, rest, found := bytes.Cut(text, []byte(`"`+signer))
	if !found || len(rest) < sumLength {
		return false, false
	}
	at := len(text) - len(rest)
	blank := bytes.Clone(text)
	copy(blank[at:], strings.Repeat("0", sumLength))
	return true, sum(blank) == string(rest[:sumLength])
}
