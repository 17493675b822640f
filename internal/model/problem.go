package model

import (
	"slices"
	"strings"
)

// Problem is one thing that stands between a request and its fulfilment, in words that a person can act on. It is a
// comparable value; an empty field is left out of the text.
type Problem struct {
	Code    string // one of Codes; stable for ever
	Path    string // the field, as manifests name it: spec.subnets[0].gateway
	Reason  string // the cause, in one line
	Owner   string // what stands in the way and whose it is
	Fix     string // what would be accepted instead
	Example string // a value, or a whole command when it begins with "flatnet "
}

// Error is the problem in one line, for logs and for wrapping.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Code + ": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Reason)
	if p.Owner != "" {
		b.WriteString(" (" + p.Owner + ")")
	}
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Conflict reports whether the request is well-formed but collides with what exists already: the tool's exit code 7.
func (p Problem) Conflict() bool { return strings.HasPrefix(p.Code, "FN2") }

// Problems is all that is wrong with a request, in the order of its fields. None is nil.
type Problems []Problem

// Err is nil when there are no problems.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Error has one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find a Problem.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// Under puts a prefix before every path: the problems of a part become those of the whole.
func (ps Problems) Under(prefix string) Problems {
	out := slices.Clone(ps)
	for i := range out {
		switch {
		case out[i].Path == "":
			out[i].Path = prefix
		case strings.HasPrefix(out[i].Path, "["):
			out[i].Path = prefix + out[i].Path
		default:
			out[i].Path = prefix + "." + out[i].Path
		}
	}
	return out
}

// The codes. The thousands say the kind: 1 the input, 2 a conflict with something that exists, 3 the daemon, 4 permission,
// 5 a finding of doctor. A number is never used again for something else.
const (
	CodeMalformed    = "FN1001"
	CodeUnknownField = "FN1002"
	CodeUnknownKind  = "FN1003"
	CodeNotFound     = "FN1004"
	CodeTooLarge     = "FN1005"
	CodeNotFixable   = "FN1006"

	CodeName     = "FN1101"
	CodeLinkName = "FN1102"
	CodeMode     = "FN1103"
	CodeLabel    = "FN1105"

	CodeSubnet        = "FN1201"
	CodeSubnetSpecial = "FN1202"
	CodeGateway       = "FN1203"
	CodeRange         = "FN1204"
	CodeReserved      = "FN1205"
	CodeNoSubnet      = "FN1206"

	CodeMTU         = "FN1301"
	CodeSNAT        = "FN1302"
	CodeUplink      = "FN1303"
	CodeDNS         = "FN1304"
	CodeHostAdapter = "FN1305"
	CodeMasquerade  = "FN1306"
	CodeProxyARP    = "FN1307"

	CodeBridgedUplink = "FN1308"
	CodeShareBridge   = "FN1309"

	CodeMAC     = "FN1401"
	CodeAddress = "FN1402"
	CodeIfName  = "FN1403"
	CodeSharing = "FN1404"
	CodeNetns   = "FN1405"
	CodeLimit   = "FN1421"
	CodeNoLimit = "FN1422"

	CodeForward       = "FN1501"
	CodeForwardLength = "FN1502"
	CodeForwardMode   = "FN1503"
	CodeForwardTarget = "FN1504"
	CodeForwardHostIP = "FN1505"

	CodeLease     = "FN1601"
	CodeMember    = "FN1602"
	CodeCluster   = "FN1603"
	CodeNotOnLink = "FN1604"
	CodeToken     = "FN1605"
	CodeUnderlay  = "FN1606"

	CodeNetworkExists  = "FN2101"
	CodeWorkloadExists = "FN2102"
	CodeBridgeTaken    = "FN2103"
	CodeLinkTaken      = "FN2104"
	CodeSubnetTwice    = "FN2105"
	CodeOverlapNetwork = "FN2106"
	CodeOverlapHost    = "FN2107"
	CodePoolsExhausted = "FN2108"
	CodeExhausted      = "FN2109"
	CodeAddressTaken   = "FN2110"
	CodeMACTaken       = "FN2111"
	CodeCableFull      = "FN2112"
	CodeAttachedTwice  = "FN2113"
	CodeForwardClash   = "FN2114"
	CodePortTaken      = "FN2115"
	CodeInUse          = "FN2116"
	CodeInactive       = "FN2117"
	CodeVersion        = "FN2118"
	CodeNotRunning     = "FN2119"
	CodeBlockTaken     = "FN2120"
	CodeUnderlayTaken  = "FN2121"
	CodeNoBlock        = "FN2122"
	CodeMemberTaken    = "FN2131"
	CodeInCluster      = "FN2132"
	CodeNoCluster      = "FN2133"
	CodeNotServer      = "FN2134"
	CodeClocks         = "FN2135"
	CodePathMTU        = "FN2136"
	CodeVNITaken       = "FN2129"

	CodeUnreachable   = "FN3001"
	CodeAPIVersion    = "FN3002"
	CodeStoreLocked   = "FN3003"
	CodeStoreDamaged  = "FN3004"
	CodeKernelRefused = "FN3005"
	CodeKernelLacks   = "FN3006"
	CodeStopping      = "FN3007"
	CodeInternal      = "FN3008"
	CodeRecords       = "FN3009"
	CodePeer          = "FN3010"
	CodeClusterAway   = "FN3011"
	CodeDrifted       = "FN3012"

	CodeNotPermitted = "FN4001"
	CodeCapability   = "FN4002"
	CodeTokenRefused = "FN4003"
	CodeStranger     = "FN4004"
	CodeTooOften     = "FN4005"
)

// Titles says what each code means, in one line.
func Titles() map[string]string {
	return map[string]string{
		CodeMalformed:    "the request cannot be read",
		CodeUnknownField: "the request has a field that nobody knows",
		CodeUnknownKind:  "the manifest is of a kind that nobody knows",
		CodeNotFound:     "there is no such object",
		CodeTooLarge:     "the request is too large",
		CodeNotFixable:   "flatnet has no fix of its own for that code",

		CodeName:     "the name cannot be used",
		CodeLinkName: "the link name cannot be used",
		CodeMode:     "there is no such mode",
		CodeLabel:    "the label cannot be used",

		CodeSubnet:        "the subnet is not a usable prefix",
		CodeSubnetSpecial: "the subnet lies in a range with another meaning",
		CodeGateway:       "the gateway does not fit its subnet",
		CodeRange:         "the range does not fit its subnet",
		CodeReserved:      "the reserved address does not fit its subnet",
		CodeNoSubnet:      "the network needs a subnet",

		CodeMTU:         "the MTU is out of bounds",
		CodeSNAT:        "the NAT source address cannot be used",
		CodeUplink:      "the uplink cannot be used",
		CodeDNS:         "the resolver's address cannot be used",
		CodeHostAdapter: "the mode has no host adapter",
		CodeMasquerade:  "the mode has no masquerade to switch",
		CodeProxyARP:    "the network cannot use proxy ARP",

		CodeBridgedUplink: "the link cannot be bridged",

		CodeMAC:     "the MAC cannot be used",
		CodeAddress: "the address cannot be given to an endpoint",
		CodeIfName:  "the link name inside the workload cannot be used",
		CodeSharing: "the workload's attachments contradict each other",
		CodeNetns:   "the namespace path cannot be used",
		CodeLimit:   "the rate or burst of a limit cannot be",
		CodeNoLimit: "endpoints of that network cannot be limited",

		CodeForward:       "the forward cannot be read",
		CodeForwardLength: "the forward's two ranges differ in length",
		CodeForwardMode:   "ports can be published on nat and routed networks only",
		CodeForwardTarget: "the forward has no endpoint to go to",
		CodeForwardHostIP: "the forward's host address is not one of this host",

		CodeLease:     "the lease cannot be used",
		CodeMember:    "the node's description of itself cannot be used",
		CodeCluster:   "the setting of a cluster network cannot be",
		CodeNotOnLink: "a node cannot be reached without a tunnel",
		CodeToken:     "the token cannot be read",
		CodeUnderlay:  "no underlay address can be used",

		CodeNetworkExists:  "a network of that name exists",
		CodeWorkloadExists: "a workload of that name exists",
		CodeBridgeTaken:    "another network has that bridge",
		CodeLinkTaken:      "the host has a link of that name",
		CodeSubnetTwice:    "two subnets of the network overlap",
		CodeOverlapNetwork: "the subnet overlaps another network",
		CodeOverlapHost:    "the subnet overlaps a route or address of this host",
		CodePoolsExhausted: "no subnet is free in the pools",
		CodeExhausted:      "no address is free in the subnet",
		CodeAddressTaken:   "another endpoint has that address",
		CodeMACTaken:       "another endpoint has that MAC",
		CodeCableFull:      "the cable has two ends already",
		CodeAttachedTwice:  "the workload is on that network already",
		CodeForwardClash:   "another forward listens there",
		CodePortTaken:      "a process of the host listens there",
		CodeInUse:          "the object is in use",
		CodeInactive:       "the network is not started",
		CodeVersion:        "the object was changed meanwhile",
		CodeNotRunning:     "the workload does not run",
		CodeBlockTaken:     "another node holds that block",
		CodeUnderlayTaken:  "another node has that underlay address",
		CodeVNITaken:       "another cluster network has that VNI",
		CodeNoBlock:        "no block is free in the network's pools",
		CodeMemberTaken:    "another node has that node id or name",
		CodeInCluster:      "this host is in a cluster already",
		CodeNoCluster:      "this host is in no cluster",
		CodeNotServer:      "only a server of the cluster can do that",
		CodeClocks:         "the clocks of the hosts are too far apart",
		CodePathMTU:        "packets of the link's MTU do not get through",

		CodeUnreachable:   "the daemon does not answer",
		CodeAPIVersion:    "the daemon speaks another version",
		CodeStoreLocked:   "another flatnetd uses the store",
		CodeStoreDamaged:  "the store's file is damaged",
		CodeKernelRefused: "the kernel refused a change",
		CodeKernelLacks:   "the kernel lacks a feature",
		CodeStopping:      "the daemon is stopping",
		CodeInternal:      "the daemon has a bug",
		CodeRecords:       "the daemon's records cannot be written",
		CodePeer:          "the other host does not answer",
		CodeClusterAway:   "the cluster's store does not answer",
		CodeDrifted:       "the attachment is not as it was made",

		CodeNotPermitted: "the caller may not do this",
		CodeCapability:   "the daemon lacks a capability",
		CodeTokenRefused: "the token is not accepted",
		CodeStranger:     "who answers is not of the token's cluster",
		CodeTooOften:     "too many attempts",

		CodeShareBridge: "the bridge cannot be shared",
	}
}
