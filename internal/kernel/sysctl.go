package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/flatnet/flatnet/internal/dataplane"
)

const procSys = "/proc/sys"

// readSysctl returns a value with its fields separated by one space. The thread's namespace decides whose it is.
func readSysctl(name string) (string, error) {
	file, err := sysctlFile(name)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return strings.Join(strings.Fields(string(text)), " "), nil
}

func writeSysctl(name, value string) error {
	file, err := sysctlFile(name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0) // never creates or truncates
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func sysctlFile(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", fmt.Errorf("%q is not a name below %s", name, procSys)
	}
	return path.Join(procSys, name), nil
}

// originals remembers what sysctls were before we changed them, in a file that is written before the change.
type originals struct {
	file bootFile[original]

	mu     sync.Mutex
	values map[string]original // by name
}

type original struct {
	Value string // before
	Ours  string // what we wrote
}

func openOriginals(path string) (*originals, error) {
	file, values, err := openBootFile[original](path)
	return &originals{file: file, values: values}, err
}

func (o *originals) names() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	names := make([]string, 0, len(o.values))
	for name := range o.values {
		names = append(names, name)
	}
	return names
}

func (o *originals) get(name string) (original, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.values[name]
	return v, ok
}

// changing remembers that a value is about to become ours; the first original stays.
func (o *originals) changing(name, before, ours string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.values[name]
	if !ok {
		v.Value = before
	}
	v.Ours = ours
	o.values[name] = v
	return o.save()
}

func (o *originals) restored(name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.values, name)
	return o.save()
}

func (o *originals) save() error { return o.file.save(o.values) }

// missing reports whether the file is gone that should be there.
func (o *originals) missing() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err := os.Stat(o.file.path)
	return len(o.values) > 0 && errors.Is(err, fs.ErrNotExist)
}

func (o *originals) write() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.save()
}

// applySysctls carries out a run of steps inside a namespace. Values of links that the same plan deletes are left alone.
func (k *Kernel) applySysctls(s *space, run dataplane.Plan, doomed map[string]bool) []error {
	var errs []error
	err := s.do(func() error {
		for _, step := range run {
			err := k.applySysctl(s.path, step, doomed)
			if set := step.Object.(dataplane.Sysctl); err == nil && step.Op != dataplane.Del && isGenModeNone(set) {
				err = dropAutoAddress(s.conn, set.Link)
			}
			if err != nil {
				errs = append(errs, &StepError{Step: step, Err: err})
			}
		}
		return nil
	})
	if err != nil {
		return everyStep(run, err)
	}
	return errs
}

func (k *Kernel) applySysctl(netns string, step dataplane.Step, doomed map[string]bool) error {
	want := step.Object.(dataplane.Sysctl)
	switch {
	case step.Op == dataplane.Del:
		k.memory.with(netns, func(r *remembered) {
			if r.sysctls[want.Name].Link == want.Link { // a link that was another's may be ours by now, and its value with it
				delete(r.sysctls, want.Name)
			}
		})
		if doomed[want.Link] {
			return nil
		}
		return ignoring(k.resetSysctl(netns, want), fs.ErrNotExist)
	case want.Link == "" && netns == dataplane.HostNetns:
		if err := k.changeSysctl(want); err != nil {
			return err
		}
	default:
		if err := writeSysctl(want.Name, want.Value); err != nil && !isAlready(want) {
			return err
		}
	}
	k.Track(netns, want)
	return nil
}

// isAlready reports whether a value that can't be written is there: below a read-only /proc/sys a new daemon finds its own.
func isAlready(want dataplane.Sysctl) bool {
	now, err := readSysctl(want.Name)
	return err == nil && now == want.Value
}

// changeSysctl writes a value that outlives our links, remembering what it was.
func (k *Kernel) changeSysctl(want dataplane.Sysctl) error {
	before, err := readSysctl(want.Name)
	if err != nil || before == want.Value {
		return err
	}
	if err := k.changed.changing(want.Name, before, want.Value); err != nil {
		return fmt.Errorf("remember the value before: %w", err)
	}
	return k.switchSysctl(want.Name, want.Value)
}

// switchSysctl writes a value of the host. Writing ip_forward sets forwarding of every link (net/ipv4/devinet.c,
// inet_forward_change); that of our links is put back at once, as a closed network would be open until the next repair.
func (k *Kernel) switchSysctl(name, value string) error {
	if name != "net/ipv4/ip_forward" {
		return writeSysctl(name, value)
	}
	kept := map[string]string{}
	for _, s := range k.tracked(dataplane.HostNetns) {
		if link, key, v6, ok := confName(s.Name); ok && link == s.Link && key == "forwarding" && !v6 {
			if before, err := readSysctl(s.Name); err == nil {
				kept[s.Name] = before
			}
		}
	}
	err := writeSysctl(name, value)
	for name, before := range kept {
		err = errors.Join(err, ignoring(writeSysctl(name, before), fs.ErrNotExist))
	}
	return err
}

// resetSysctl puts back what was before us, unless somebody has changed it since; the value of a link of ours becomes the
// default of new links.
func (k *Kernel) resetSysctl(netns string, s dataplane.Sysctl) error {
	if s.Link != "" || netns != dataplane.HostNetns {
		return resetLinkSysctl(s)
	}
	was, ok := k.changed.get(s.Name)
	if !ok {
		return nil
	}
	now, err := readSysctl(s.Name)
	if err == nil && now == was.Ours {
		err = k.switchSysctl(s.Name, was.Value)
	}
	return errors.Join(ignoring(err, fs.ErrNotExist), k.changed.restored(s.Name))
}

func resetLinkSysctl(s dataplane.Sysctl) error {
	_, key, v6, ok := confName(s.Name)
	if !ok {
		return nil
	}
	family := "ipv4"
	if v6 {
		family = "ipv6"
	}
	value, err := readSysctl("net/" + family + "/conf/default/" + key)
	if err != nil {
		return err
	}
	return writeSysctl(s.Name, value)
}
