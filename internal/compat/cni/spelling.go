package cni

import (
	"slices"
	"strings"
)

// runtimeKeys are the keys of what stands in runtimeConfig.
var runtimeKeys = []string{"hostPort", "containerPort", "protocol", "hostIP", "ingressRate", "ingressBurst", "egressRate", "egressBurst",
	"subnet", "rangeStart", "rangeEnd", "gateway", "servers", "searches", "options"}

// otherwiseSpelled reports whether a path is of a key in runtimeConfig that has capitals where others have small letters: containerd up to 1.6
// writes HostPort for hostPort, and every plugin that reads with encoding/json takes it. People write no runtimeConfig, so nothing of theirs is overlooked.
func otherwiseSpelled(path string) bool {
	if !strings.HasPrefix(path, "runtimeConfig.") {
		return false
	}
	key := path[strings.LastIndexByte(path, '.')+1:]
	return slices.ContainsFunc(runtimeKeys, func(k string) bool { return strings.EqualFold(k, key) })
}
