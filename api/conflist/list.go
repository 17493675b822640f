package conflist

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
)

// The codes of what is wrong with a configuration.
const (
	CodeNoConfig = "FN4310" // the file is no CNI configuration
	CodeNoEqual  = "FN4311" // nothing here is like it
	CodeValue    = "FN4312" // a value cannot be understood
)

// PluginType is the name of flatnet's plugin: that of its file, and the word in a configuration's "type".
const PluginType = "flatnet"

// List is a network configuration, a list of plugins or one alone, as far as all of them are alike.
type List struct {
	Name       string
	CNIVersion string
	Plugins    []Plugin
	Single     bool // one plugin without a list around it
	rest       map[string]any
}

// Plugin is one plugin's part.
type Plugin struct {
	Type string
	raw  json.RawMessage
	keys map[string]any
}

// IsConfig reports whether runtimes take a file of that name for a configuration (libcni, ConfFiles).
func IsConfig(file string) bool {
	return slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(file))
}

// Parse reads a configuration. The error is an *api.Error.
func Parse(text []byte) (List, error) {
	keys, err := decode(text)
	if err != nil {
		return List{}, noConfig("not JSON: " + err.Error())
	}
	l := List{rest: keys}
	l.Name, _ = keys["name"].(string)
	l.CNIVersion, _ = keys["cniVersion"].(string)
	if _, is := keys["plugins"]; is {
		return l.parsePlugins(text)
	}
	p, err := parsePlugin(text)
	if err != nil {
		return List{}, noConfig(`it has neither a list "plugins" nor a "type"`)
	}
	for _, key := range []string{"name", "cniVersion"} {
		delete(p.keys, key)
	}
	l.Plugins, l.Single = []Plugin{p}, true
	return l, nil
}

func (l List) parsePlugins(text []byte) (List, error) {
	var outer struct {
		Plugins []json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(text, &outer); err != nil || len(outer.Plugins) == 0 {
		return List{}, noConfig(`"plugins" is no list of plugins`)
	}
	for i, raw := range outer.Plugins {
		p, err := parsePlugin(raw)
		if err != nil {
			return List{}, noConfig(fmt.Sprintf("plugins[%d]: %v", i, err))
		}
		l.Plugins = append(l.Plugins, p)
	}
	return l, nil
}

func parsePlugin(raw []byte) (Plugin, error) {
	keys, err := decode(raw)
	if err != nil {
		return Plugin{}, err
	}
	p := Plugin{raw: raw, keys: keys}
	if p.Type, _ = keys["type"].(string); p.Type == "" {
		return p, fmt.Errorf(`no "type"`)
	}
	delete(keys, "type")
	return p, nil
}

// decode reads one object, with numbers as they are written.
func decode(text []byte) (keys map[string]any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&keys); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("something follows the object")
	}
	if keys == nil {
		return nil, fmt.Errorf("null")
	}
	return keys, nil
}

func noConfig(reason string) error {
	return api.Fail(api.ExitUsage, api.Problem{Code: CodeNoConfig, Reason: reason, Fix: "a CNI configuration, as in /etc/cni/net.d", Example: `{"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "bridge", …}]}`})
}

// Types are the plugins' names in their order.
func (l List) Types() []string {
	var types []string
	for _, p := range l.Plugins {
		types = append(types, p.Type)
	}
	return types
}

// Flatnet is the part of flatnet's plugin, if it is there.
func (l List) Flatnet() (Plugin, bool) {
	i := slices.IndexFunc(l.Plugins, func(p Plugin) bool { return p.Type == PluginType })
	if i < 0 {
		return Plugin{}, false
	}
	return l.Plugins[i], true
}

// Socket is where flatnet's plugin finds its daemon; empty: at the usual place.
func (p Plugin) Socket() string {
	socket, _ := p.keys["socket"].(string)
	return socket
}

// Networks are the networks that flatnet's plugin attaches to; none: the one that it finds by itself.
func (p Plugin) Networks() []string {
	var names []string
	if name, is := p.keys["network"].(string); is && name != "" {
		names = append(names, name)
	}
	list, _ := p.keys["networks"].([]any)
	for _, item := range list {
		switch item := item.(type) {
		case string:
			names = append(names, item)
		case map[string]any:
			if name, is := item["network"].(string); is {
				names = append(names, name)
			}
		}
	}
	return names
}

func (l List) String() string { return fmt.Sprintf("%s (%s)", l.Name, strings.Join(l.Types(), ", ")) }
