package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// The codes of labs; each has a page in api/help.
const (
	codeSpec  = "FN6001" // the lab cannot be as it was asked for
	codeTaken = "FN6002" // a lab of that name is there, or is being changed
	codeNoLab = "FN6003" // there is no such lab, or not only one
	codeLacks = "FN6004" // this machine lacks what a lab needs
	codeFault = "FN6005" // the fault cannot be made in this lab
	codeLeft  = "FN6006" // something of the lab was left behind
	codeDeaf  = "FN6007" // some workloads do not reach each other
	codeDown  = "FN6008" // a host is down, or its flatnetd
)

// Exit is the exit status of the tool for an error: docs/reference/cli.md.
func Exit(err error) int {
	var answer *api.Error
	var p model.Problem
	switch {
	case errors.As(err, &answer):
		return answer.Exit
	case errors.As(err, &p):
		return exitOf(p.Code)
	}
	return api.ExitInconclusive
}

func exitOf(code string) int {
	switch code {
	case codeSpec:
		return api.ExitUsage
	case codeTaken:
		return api.ExitConflict
	case codeDeaf, codeLeft:
		return api.ExitNegative
	case codeDown:
		return api.ExitUnreachable
	case codeLacks:
		if os.Geteuid() != 0 {
			return api.ExitNotPermitted
		}
	}
	return api.ExitInconclusive
}

// ready refuses a machine where no lab can be made.
func (s Spec) ready() error {
	if os.Geteuid() != 0 {
		return model.Problem{Code: codeLacks, Reason: "only root may make network namespaces", Example: "sudo flatnet lab up"}
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return model.Problem{Code: codeLacks, Reason: "the hosts are joined by the command ip, which is not here", Fix: "install iproute2"}
	}
	return nil
}

// programs finds flatnetd and flatnet: in one directory as they are built, or where they are installed.
func (s Spec) programs() (map[string]string, error) {
	found := map[string]string{}
	for _, name := range []string{"flatnetd", "flatnet"} {
		places := append([]string{s.Bin}, filepath.SplitList(os.Getenv("PATH"))...)
		for _, dir := range append(places, "/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin") {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(path) {
				found[name] = path
				break
			}
		}
		if found[name] == "" {
			return nil, model.Problem{Code: codeLacks, Reason: fmt.Sprintf("%s is neither in %s nor where programs are", name, s.Bin), Fix: "build both, or install both"}
		}
	}
	return found, nil
}

// needs refuses what takes a command that is not on this machine.
func needs(command, from string) error {
	if _, err := exec.LookPath(command); err != nil {
		return model.Problem{Code: codeLacks, Reason: fmt.Sprintf("the command %s is not here", command), Fix: "install " + from}
	}
	return nil
}

// Text is an error as flatnet shows it on a terminal, also when it is the answer of a host's flatnetd.
func Text(err error) string {
	if err == nil {
		return ""
	}
	problems := problemsIn(err)
	if len(problems) == 0 {
		problems = []api.Problem{{Reason: err.Error()}}
	}
	var b strings.Builder
	api.Fail(Exit(err), problems...).Write(&b, "error")
	return strings.TrimSuffix(b.String(), "\n")
}

// problemsIn finds what an error wraps, or joins.
func problemsIn(err error) (all []api.Problem) {
	switch e := err.(type) {
	case *api.Error:
		return e.Problems
	case model.Problem:
		return []api.Problem{{Code: e.Code, Path: e.Path, Reason: e.Reason, Owner: e.Owner, Fix: e.Fix, Example: e.Example}}
	case interface{ Unwrap() error }:
		return problemsIn(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			all = append(all, problemsIn(one)...)
		}
	}
	return all
}

// told makes the error of a call to the host's flatnetd one of the lab: why nobody answers there, and where to type what helps.
func (h *Host) told(err error) error {
	var e *api.Error
	switch {
	case !errors.As(err, &e):
		return err
	case api.IsUnreachable(err) && !h.Running():
		return h.must()
	case api.IsUnreachable(err):
		return model.Problem{Code: codeDown, Reason: fmt.Sprintf("flatnetd of %s does not answer", h.Name), Owner: "last in its log: " + lastLine(h.Log()),
			Fix: "start it again: flatnet lab exec " + h.lab.flags() + h.Name + " -- flatnetd"}
	}
	here := api.Fail(e.Exit, slices.Clone(e.Problems)...)
	for i, p := range here.Problems {
		if strings.HasPrefix(p.Example, "flatnet ") {
			here.Problems[i].Example = "flatnet lab exec " + h.lab.flags() + h.Name + " -- " + p.Example
		}
	}
	return here
}

// must refuses what a machine that does not run cannot do.
func (m *Machine) must() error {
	if m.Running() {
		return nil
	}
	p := model.Problem{Code: codeDown, Reason: fmt.Sprintf("%s of lab %q does not run", m.Name, m.lab.Name()), Fix: "take the lab down, and up again",
		Example: "flatnet lab down --name " + m.lab.Name()}
	for _, b := range m.lab.Broken() {
		if b.Fault == faultHostDown && slices.Contains(b.Hosts, m.Name) {
			p.Reason, p.Fix, p.Example = fmt.Sprintf("%s is down by the fault %s", m.Name, b.Fault), "boot it", "flatnet lab fix "+m.lab.flags()+b.Fault
		}
	}
	return p
}

// flags name the lab in a command where another one could be meant.
func (l *Lab) flags() string {
	if others, err := Names(filepath.Dir(l.dir)); err == nil && len(others) > 1 {
		return "--name " + l.Name() + " "
	}
	return ""
}
