package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// The names of a workload's files in its directory, and of those directories in RunDir.
const (
	workloadsDir   = "workloads"
	resolvConfFile = "resolv.conf"
	hostsFile      = "hosts"
	logFile        = "log"
)

// hostsGateway is the name by which a workload reaches its host.
const hostsGateway = "host.flatnet"

// resolvConfs are where the host's resolvers stand, the first that names one that is not on the loopback wins: systemd-resolved
// keeps the upstream ones in the second.
var resolvConfs = [...]string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

func (a *Agent) fileDir(workload string) string {
	return filepath.Join(a.config.RunDir, workloadsDir, workload)
}

// filesOf are the files of a workload in a namespace that was made for it, and of those that share one.
func (a *Agent) filesOf(w model.Workload) api.Files {
	var f api.Files
	dir := a.fileDir(w.Name)
	if w.Managed {
		f.ResolvConf, f.Hosts = filepath.Join(dir, resolvConfFile), filepath.Join(dir, hostsFile)
	}
	if target, ok := a.state.view.Workloads[w.Join]; ok && w.Sharing == model.Joined {
		f = a.filesOf(target)
	}
	if w.Managed || w.Sharing != model.Own || w.Process.PID != 0 {
		f.Log = filepath.Join(dir, logFile)
	}
	return f
}

// writeFiles writes what a managed workload sees in place of the host's files. An error is told and no more: the network
// works without.
func (a *Agent) writeFiles(w model.Workload) {
	dir := a.fileDir(w.Name)
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = errors.Join(replace(filepath.Join(dir, resolvConfFile), a.resolvConf(w)), replace(filepath.Join(dir, hostsFile), hosts(a.view(), w)))
	}
	if err != nil {
		a.deps.Log.Warn("write a workload's files", "workload", w.Name, "err", err)
		a.event("error", "workload/"+w.Name, "write its files: "+err.Error())
	}
}

// replace writes a file in place, as it may be mounted over another one in a workload, which a new inode would not reach.
func replace(path, content string) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == content {
		return nil
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

func (a *Agent) removeFiles(workload string) {
	if err := os.RemoveAll(a.fileDir(workload)); err != nil {
		a.deps.Log.Warn("remove a workload's files", "workload", workload, "err", err)
	}
}

// writeAllFiles brings the files of all managed workloads up to date. The caller has the token.
func (a *Agent) writeAllFiles() {
	for _, w := range a.view().Workloads {
		if w.Managed {
			a.writeFiles(w)
		}
	}
}

// sweepFiles removes the files of workloads that are no more.
func (a *Agent) sweepFiles() {
	dirs, err := os.ReadDir(filepath.Join(a.config.RunDir, workloadsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.deps.Log.Warn("list workloads' files", "err", err)
	}
	for _, d := range dirs {
		if _, known := a.view().Workloads[d.Name()]; !known {
			a.removeFiles(d.Name())
		}
	}
}

func (a *Agent) resolvConf(w model.Workload) string {
	var b strings.Builder
	b.WriteString("# written by flatnet for workload " + w.Name + "; changes are lost\n")
	for _, r := range a.resolvers(w) {
		b.WriteString("nameserver " + r.String() + "\n")
	}
	for _, line := range hostSearch() {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// resolvers are those of the workload's networks, the one with the default route first; else the host's.
func (a *Agent) resolvers(w model.Workload) []netip.Addr {
	const most = 3 // MAXNS of resolv.conf(5)
	endpoints := slices.Clone(w.Endpoints)
	slices.SortStableFunc(endpoints, func(a, b model.Endpoint) int { return b.Priority - a.Priority })
	var list []netip.Addr
	for _, e := range endpoints {
		for _, r := range a.view().Networks[e.Network].DNS {
			if !slices.Contains(list, r) {
				list = append(list, r)
			}
		}
	}
	if len(list) == 0 {
		list = hostResolvers()
	}
	return list[:min(len(list), most)]
}

// hostResolvers are the host's resolvers that a workload can ask too: not those on the host's loopback.
func hostResolvers() []netip.Addr {
	for _, file := range resolvConfs {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if list := parseResolvers(string(content)); len(list) > 0 {
			return list
		}
	}
	return nil
}

func parseResolvers(content string) []netip.Addr {
	var list []netip.Addr
	for line := range strings.Lines(content) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		r, err := netip.ParseAddr(words[1])
		if err == nil && r.Zone() == "" && !r.IsLoopback() && !r.IsUnspecified() {
			list = append(list, r)
		}
	}
	return list
}

// hostSearch are the lines of the host's resolv.conf that say how to look names up.
func hostSearch() []string {
	content, err := os.ReadFile(resolvConfs[0])
	if err != nil {
		return nil
	}
	var lines []string
	for line := range strings.Lines(string(content)) {
		words := strings.Fields(line)
		if len(words) > 1 && slices.Contains([]string{"search", "domain", "options"}, words[0]) {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return lines
}

func hosts(v model.View, w model.Workload) string {
	var b strings.Builder
	b.WriteString("# written by flatnet for workload " + w.Name + "; changes are lost\n")
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, e := range w.Endpoints {
		for _, addr := range e.Addrs {
			fmt.Fprintf(&b, "%s %s\n", addr, w.Name)
		}
	}
	if len(w.Endpoints) == 0 {
		fmt.Fprintf(&b, "127.0.0.1 %s\n", w.Name)
	}
	for _, v6 := range []bool{false, true} {
		if gateway := hostAddr(v, w, v6); gateway.IsValid() {
			fmt.Fprintf(&b, "%s %s\n", gateway, hostsGateway)
		}
	}
	return b.String()
}

// hostAddr is the address at which the host answers the workload.
func hostAddr(v model.View, w model.Workload, v6 bool) netip.Addr {
	endpoints := slices.Clone(w.Endpoints)
	slices.SortStableFunc(endpoints, func(a, b model.Endpoint) int { return b.Priority - a.Priority })
	for _, e := range endpoints {
		n := v.Networks[e.Network]
		for _, addr := range e.Addrs {
			if s, ok := n.Subnet(addr); ok && addr.Is6() == v6 && n.HostPresent() {
				return s.Gateway
			}
		}
	}
	return netip.Addr{}
}
