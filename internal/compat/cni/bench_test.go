package cni

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api/attach"
)

// What the language itself costs: reading the request and writing the result, without the daemon.
func BenchmarkADD(b *testing.B) {
	s, of := newServer(newFake(), slog.New(slog.DiscardHandler)), sampleADD
	of.netns = os.Stdin
	for b.Loop() {
		if reply, err := s.answer(context.Background(), of); err != nil || reply.Exit != 0 {
			b.Fatal(reply, err)
		}
	}
}

func BenchmarkGCOfTenThousand(b *testing.B) {
	s := newServer(newFake(), slog.New(slog.DiscardHandler))
	of := call{made: new(bool), Request: attach.Request{Command: "GC", Config: []byte(gcOfTenThousand())}}
	for b.Loop() {
		if reply, err := s.answer(context.Background(), of); err != nil || reply.Exit != 0 {
			b.Fatal(reply, err)
		}
	}
}

// gcOfTenThousand is the configuration of a GC as libcni writes it: with the list twice.
func gcOfTenThousand() string {
	var list strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&list, `{"containerID":"%064x","ifname":"eth0"},`, i)
	}
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"pods","type":"flatnet","cni.dev/valid-attachments":[%s],"cni.dev/attachments":[%[1]s]}`, strings.TrimSuffix(list.String(), ","))
}

var sampleADD = call{made: new(bool), Request: attach.Request{Command: "ADD", Container: "f1e2", Netns: "/run/netns/cni-0a1b", IfName: "eth0",
	Args:   "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=f1e2;K8S_POD_UID=6f1d",
	Config: []byte(`{"capabilities":{"bandwidth":true,"portMappings":true},"cniVersion":"1.0.0","name":"pods","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":""}]},"type":"flatnet"}`)}}
