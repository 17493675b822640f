package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

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
)

// Exit is the exit status of the tool for an error: docs/reference/cli.md.
func Exit(err error) int {
	var p model.Problem
	if !errors.As(err, &p) {
		return 5
	}
	switch p.Code {
	case codeSpec:
		return 2
	case codeTaken:
		return 7
	case codeDeaf, codeLeft:
		return 1
	case codeLacks:
		if os.Geteuid() != 0 {
			return 4
		}
	}
	return 5
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

// Text is an error as a terminal shows it.
func Text(err error) string {
	var p model.Problem
	if errors.As(err, &p) {
		return p.Text()
	}
	return "error: " + strings.TrimSpace(err.Error())
}
