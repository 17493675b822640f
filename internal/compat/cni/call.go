package cni

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/api/attach"
	"github.com/flatnet/flatnet/internal/model"
)

// call is one call of the plugin: its variables and its configuration.
type call struct {
	made *bool // whether an ADD made something, which is to be taken back when nobody gets the answer

	attach.Request
	netns *os.File // what CNI_NETNS names; nil when it was not opened
	args  args     // CNI_ARGS
}

// args are the fields of CNI_ARGS that are known.
type args struct {
	IPs []string // IP
	MAC string

	PodNamespace, PodName, PodUID string // K8S_POD_…
}

// the variables that a command needs (CNI 1.1.0, section 2).
var needed = map[string][]string{
	"ADD":   {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
	"CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
	"DEL":   {"CNI_CONTAINERID", "CNI_IFNAME"},
}

// checkVariables finds those that are missing or cannot be meant, and names them all.
func (c *call) checkVariables() error {
	values := map[string]string{"CNI_CONTAINERID": c.Container, "CNI_NETNS": c.Netns, "CNI_IFNAME": c.IfName}
	var ps model.Problems
	for _, name := range needed[c.Command] {
		if values[name] == "" {
			ps = append(ps, model.Problem{Code: codeEnvironment, Reason: name + " is not set"})
		}
	}
	if c.Container != "" && (!namePattern.MatchString(c.Container) || len(c.Container) > 256) {
		ps = append(ps, model.Problem{Code: codeEnvironment, Reason: fmt.Sprintf("CNI_CONTAINERID=%s is no container's id", brief(c.Container)),
			Fix: "letters, digits, _ . - and the first a letter or digit"})
	}
	if c.IfName != "" && !isLinkName(c.IfName) {
		ps = append(ps, model.Problem{Code: codeEnvironment, Reason: fmt.Sprintf("CNI_IFNAME=%s cannot be a link's name", brief(c.IfName)),
			Fix: "1 to 15 characters without space, slash and colon"})
	}
	return ps.Err()
}

// isLinkName is what Linux takes (dev_valid_name).
func isLinkName(s string) bool {
	return len(s) <= 15 && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r")
}

// readArgs reads CNI_ARGS. A field that is not known is refused, unless the field IgnoreUnknown says otherwise.
func readArgs(text string) (args, error) {
	var a args
	var unknown []string
	ignore := false
	for pair := range strings.SplitSeq(text, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return args{}, badArgs(fmt.Sprintf("%q is not KEY=VALUE", brief(pair)), "pairs of KEY=VALUE with semicolons between")
		}
		switch key {
		case "IP":
			a.IPs = strings.Split(value, ",")
		case "MAC":
			a.MAC = value
		case "K8S_POD_NAMESPACE":
			a.PodNamespace = value
		case "K8S_POD_NAME":
			a.PodName = value
		case "K8S_POD_UID":
			a.PodUID = value
		case "K8S_POD_INFRA_CONTAINER_ID": // CNI_CONTAINERID says the same
		case "IgnoreUnknown":
			on, err := strconv.ParseBool(strings.ToLower(value))
			if err != nil {
				return args{}, badArgs(fmt.Sprintf("IgnoreUnknown=%s is neither true nor false", brief(value)), "")
			}
			ignore = on
		default:
			unknown = append(unknown, brief(key))
		}
	}
	if len(unknown) > 0 && !ignore {
		return args{}, badArgs("unknown fields "+strings.Join(slices.Compact(unknown), ", "), "leave them out, or add IgnoreUnknown=1")
	}
	return a, nil
}

func badArgs(reason, fix string) error {
	return model.Problem{Code: codeEnvironment, Path: "CNI_ARGS", Reason: reason, Fix: fix}
}

// id names the attachment that the call is about.
func (c *call) id(config string) model.Attachment {
	return model.Attachment{Config: config, Container: c.Container, IfName: c.IfName}
}
