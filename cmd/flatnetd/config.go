package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// config is what flags, environment and file say; in that order the first that says anything wins.
type config struct {
	StateDir  string
	RunDir    string
	NetnsDir  string
	Socket    string
	Group     string
	GroupMay  string // look or change
	LogLevel  slog.Level
	LogFormat string // text or json
	Version   bool
	Flannel   flannelConfig

	HostLocalDir string
}

// configFile is where the file is looked for; that it is missing is no error there.
const configFile = "/etc/flatnet/config.yaml"

const environment = "FLATNET_"

var errHelp = errors.New("help was asked for")

// setting is one that has a flag, a variable and a key of the file, all of one name.
type setting struct {
	name, value, help string
	set               func(*config, string) error
}

func settings() []setting {
	text := func(field func(*config) *string) func(*config, string) error {
		return func(c *config, s string) error { *field(c) = s; return nil }
	}
	path := func(field func(*config) *string) func(*config, string) error {
		return func(c *config, s string) error {
			if !filepath.IsAbs(s) {
				return fmt.Errorf("%q is not an absolute path", s)
			}
			*field(c) = filepath.Clean(s)
			return nil
		}
	}
	return append([]setting{
		{"state-dir", "/var/lib/flatnet", "directory of what is kept for ever", path(func(c *config) *string { return &c.StateDir })},
		{"run-dir", "/run/flatnet", "directory of what is kept until the next boot", path(func(c *config) *string { return &c.RunDir })},
		{"netns-dir", "/run/netns", "directory of the namespaces made for workloads", path(func(c *config) *string { return &c.NetnsDir })},
		{"host-local-dir", "/var/lib/cni/networks", "where CNI's host-local plugin keeps which addresses it has given: flatnet does not give them again", path(func(c *config) *string { return &c.HostLocalDir })},
		{"socket", "", "where to answer (default flatnet.sock in the run directory)", func(c *config, s string) error {
			if s == "" {
				return nil
			}
			return path(func(c *config) *string { return &c.Socket })(c, s)
		}},
		{"group", "", "group that the socket is for beside root, by name or number (default: none)", text(func(c *config) *string { return &c.Group })},
		{"group-may", "look", "what members of the group may do: look, or change, which makes them as good as root", func(c *config, s string) error {
			if s != "look" && s != "change" {
				return fmt.Errorf("%q is neither look nor change", s)
			}
			c.GroupMay = s
			return nil
		}},
		{"log-level", "info", "debug, info, warn or error", func(c *config, s string) error { return c.LogLevel.UnmarshalText([]byte(s)) }},
		{"log-format", "text", "text or json", func(c *config, s string) error {
			if s != "text" && s != "json" {
				return fmt.Errorf("%q is neither text nor json", s)
			}
			c.LogFormat = s
			return nil
		}},
	}, flannelSettings()...)
}

// variable is the environment's name of a setting: state-dir is FLATNET_STATE_DIR.
func (s setting) variable() string {
	return environment + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// key is the file's name of a setting: state-dir is stateDir.
func (s setting) key() string {
	words := strings.Split(s.name, "-")
	for i, w := range words[1:] {
		words[i+1] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, "")
}

func readConfig(args []string, getenv func(string) string, readFile func(string) ([]byte, error), stderr io.Writer) (config, error) {
	var c config
	all := settings()
	given, file, err := parseFlags(&c, all, args, getenv, stderr)
	if err != nil {
		return c, err
	}
	kept, err := readSettings(file, all, readFile)
	if err != nil {
		return c, err
	}
	for _, s := range all {
		value, from := s.value, "default"
		if v, ok := kept[s.key()]; ok {
			value, from = v, file+": "+s.key()
		}
		if v := getenv(s.variable()); v != "" {
			value, from = v, s.variable()
		}
		if v, ok := given[s.name]; ok {
			value, from = v, "--"+s.name
		}
		if err := s.set(&c, value); err != nil {
			return c, fmt.Errorf("%s: %w", from, err)
		}
	}
	return c, c.check()
}

// check finds directories in each other's way: of the run directory all is flatnetd's own that it has a name for.
func (c config) check() error {
	for _, own := range []string{"netns", "workloads", "bpf"} {
		if own = filepath.Join(c.RunDir, own); c.NetnsDir == own || strings.HasPrefix(c.NetnsDir, own+"/") {
			return fmt.Errorf("--netns-dir %s: flatnetd keeps its own records in %s; take another directory, such as %s", c.NetnsDir, own, filepath.Join(c.RunDir, "namespaces"))
		}
	}
	return nil
}

// parseFlags returns what was given by flags, and the name of the file.
func parseFlags(c *config, all []setting, args []string, getenv func(string) string, stderr io.Writer) (given map[string]string, file string, err error) {
	f := flag.NewFlagSet("flatnetd", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { usage(stderr, all) }
	f.StringVar(&file, "config", "", "")
	f.BoolVar(&c.Version, "version", false, "")
	given = map[string]string{}
	for _, s := range all {
		f.Func(s.name, s.help, func(v string) error { given[s.name] = v; return nil })
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			err = errHelp
		}
		return nil, "", err
	}
	if f.NArg() > 0 {
		return nil, "", fmt.Errorf("%q: flatnetd takes flags only", f.Arg(0))
	}
	if file == "" {
		file = getenv(environment + "CONFIG")
	}
	if file == "" {
		file = configFile
	}
	return given, file, nil
}

func usage(w io.Writer, all []setting) {
	fmt.Fprintln(w, "flatnetd keeps this machine's networks. Each setting is a flag, a variable or a key of the file; the first wins.")
	fmt.Fprintln(w, "\nusage: flatnetd [flags]")
	for _, s := range all {
		fmt.Fprintf(w, "  --%-19s %-27s %s: %s", s.name, s.variable(), s.key(), s.help)
		if s.value != "" {
			fmt.Fprintf(w, " (default %s)", s.value)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  --%-19s %-27s the file (default %s)\n", "config", environment+"CONFIG", configFile)
	fmt.Fprintf(w, "  --%-19s print the version\n", "version")
}

// readSettings reads the file: one YAML object of strings, by key. A key that nobody knows is an error.
func readSettings(file string, all []setting, readFile func(string) ([]byte, error)) (map[string]string, error) {
	data, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) && file == configFile {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kept := map[string]string{}
	if err := yaml.UnmarshalStrict(data, &kept); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var known []string
	for _, s := range all {
		known = append(known, s.key())
	}
	for key := range kept {
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("%s: there is no setting %q; settings: %s", file, key, strings.Join(known, ", "))
		}
	}
	return kept, nil
}

func (c config) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
