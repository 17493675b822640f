package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

const (
	// namedNetns is where `ip netns` keeps namespaces.
	namedNetns = "/run/netns"
	// answerTime is how long a neighbour that was asked for just now may take to answer.
	answerTime = 500 * time.Millisecond
)

// facts gathers what package checkup judges. Where the inside of workloads is not asked for, it is quick however many there are.
func (a *Agent) facts(ctx context.Context, v model.View, inside bool) (checkup.Facts, error) {
	s := a.deps.Surveyor
	f := checkup.Facts{View: v, Sysctls: sysctlSettings("/"), Workloads: map[string]kernel.Space{}}
	f.Forward = [2]bool{isOn("net/ipv4/ip_forward"), isOn("net/ipv6/conf/all/forwarding")}
	host, err := a.survey(ctx, dataplane.HostNetns)
	if err != nil {
		return f, err
	}
	f.Host = host[dataplane.HostNetns]
	addrs := map[string][]netip.Prefix{}
	for _, l := range f.Host.Links {
		addrs[l.Name] = l.Addrs
	}
	a.past.note(f.Host.Defaults, addrs, a.deps.Now()) // the kernel's message of a change may still be on its way
	f.Before = a.past.before()
	f.Cluster = a.clusterFacts(ctx, v)
	if f.Switches, err = s.Switches(ctx); err != nil {
		return f, err
	}
	if !inside {
		return f, nil
	}
	a.mu.RLock()
	lost := maps.Clone(a.state.lost)
	a.mu.RUnlock()
	for name, w := range v.Workloads {
		if _, isLost := lost[name]; !isLost && w.Sharing == model.Own && w.Netns != "" && !w.Process.Exited {
			if space, err := s.Survey(ctx, w.Netns); err == nil { // else it is gone, which is told elsewhere
				f.Workloads[name] = space
			}
		}
	}
	f.Others, err = a.others(ctx, f.Host)
	return f, err
}

// survey reads namespaces, without those that have gone. Where the gateway of a default route was asked for and has not answered
// yet it looks once more: as long as packets go there the kernel asks again and again, and hardly ever says that it failed.
func (a *Agent) survey(ctx context.Context, paths ...string) (map[string]kernel.Space, error) {
	spaces := map[string]kernel.Space{}
	var again []string
	var errs []error
	for _, path := range paths {
		s, err := a.deps.Surveyor.Survey(ctx, path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		default:
			spaces[path] = s
		}
		if len(unanswered(s)) > 0 {
			again = append(again, path)
		}
	}
	if len(again) > 0 {
		pause(ctx, answerTime)
	}
	for _, path := range again {
		if s, err := a.deps.Surveyor.Survey(ctx, path); err == nil {
			giveUp(spaces[path], s)
			spaces[path] = s
		}
	}
	return spaces, errors.Join(errs...)
}

// giveUp notes in the second look at a namespace which gateways still have not answered.
func giveUp(first, second kernel.Space) {
	still := unanswered(second)
	for _, i := range unanswered(first) {
		for _, j := range still {
			if first.Neighbours[i].Addr == second.Neighbours[j].Addr && first.Neighbours[i].Link == second.Neighbours[j].Link {
				second.Neighbours[j].State = "FAILED"
			}
		}
	}
}

// unanswered are the places of gateways that are being asked for.
func unanswered(s kernel.Space) []int {
	var list []int
	for i, n := range s.Neighbours {
		isGateway := slices.ContainsFunc(s.Defaults, func(d kernel.DefaultRoute) bool {
			return slices.Contains(d.Hops, kernel.DefaultHop{Via: n.Addr, Link: n.Link})
		})
		if isGateway && n.State == "INCOMPLETE" {
			list = append(list, i)
		}
	}
	return list
}

// others are namespaces that somebody plugged into bridges of the host.
func (a *Agent) others(ctx context.Context, host kernel.Space) ([]checkup.Other, error) {
	ends, err := a.deps.Surveyor.Attached(ctx, namedNetns)
	if err != nil {
		return nil, err
	}
	ends = slices.DeleteFunc(ends, func(at kernel.Attachment) bool { return masterOf(host, at.Link) == "" })
	var paths []string
	for _, at := range ends {
		paths = append(paths, at.Netns)
	}
	slices.Sort(paths)
	spaces, err := a.survey(ctx, slices.Compact(paths)...)
	var list []checkup.Other
	for _, at := range ends {
		if space, ok := spaces[at.Netns]; ok {
			list = append(list, checkup.Other{Attachment: at, Bridge: masterOf(host, at.Link), Space: space})
		}
	}
	return list, err
}

func masterOf(s kernel.Space, link string) string {
	for _, l := range s.Links {
		if l.Name == link {
			return l.Master
		}
	}
	return ""
}

func isOn(sysctl string) bool {
	value, err := os.ReadFile(filepath.Join("/proc/sys", sysctl))
	return err == nil && strings.TrimSpace(string(value)) != "0"
}

// sysctlSettings are what files below root set of forwarding when the machine starts, or when somebody calls sysctl --system.
func sysctlSettings(root string) []checkup.Setting {
	files := []string{filepath.Join(root, "etc/sysctl.conf")}
	for _, dir := range []string{"usr/lib/sysctl.d", "run/sysctl.d", "etc/sysctl.d"} {
		some, _ := filepath.Glob(filepath.Join(root, dir, "*.conf")) // the pattern is well formed
		files = append(files, some...)
	}
	var list []checkup.Setting
	for _, file := range files {
		text, _ := os.ReadFile(file) // a file that is not there sets nothing
		number := 0
		for line := range strings.Lines(string(text)) {
			number++
			name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			name = strings.ReplaceAll(strings.TrimLeft(strings.TrimSpace(name), "-"), ".", "/")
			if ok && strings.Contains(name, "forward") && !strings.ContainsAny(line[:1], "#;") {
				list = append(list, checkup.Setting{File: file, Line: number, Text: strings.TrimSpace(line), Name: name, Value: strings.TrimSpace(value)})
			}
		}
	}
	return list
}

// writable says why a sysctl can't be set; nil when it can.
func writable(name string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("flatnetd can't set it: %w", err)
	}
	return f.Close()
}
