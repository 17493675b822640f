package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package bpf -target bpfel,bpfeb -type forward_key -type forward_to loopback ../../../bpf/loopback.c -- -O2 -g -Wall -Werror -Wno-parentheses -nostdinc
//go:generate sh -c "cd ../../../bpf && sha256sum kernel.h loopback.c >../internal/kernel/bpf/sources.sum"
