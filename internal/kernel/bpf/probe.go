package bpf

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Probe reports why the calling thread could not do the work of a Conn, as an *Unsupported. It loads the programs into the
// kernel and lets go of them; nothing is attached, mounted or written.
func Probe(cfg Config) error {
	ours, err := netnsCookie()
	if err != nil {
		return err
	}
	cgroup, _, err := openCgroup(cfg.Cgroup)
	if err != nil {
		return err
	}
	defer cgroup.Close()
	if err := probeMount(filepath.Join(cfg.RunDir, "bpf")); err != nil {
		return err
	}
	return probeLoad(ours)
}

func probeLoad(ours uint64) error {
	s, err := spec(ours)
	if err != nil {
		return fmt.Errorf("bpf: %w", err)
	}
	all, err := ebpf.NewCollection(s)
	switch {
	case errors.Is(err, unix.EPERM):
		return &Unsupported{"loading BPF programs is not permitted (needs CAP_SYS_ADMIN)", err}
	case err != nil:
		return &Unsupported{"this kernel does not take the BPF programs (needs CONFIG_CGROUP_BPF and Linux 5.14)", err}
	}
	all.Close()
	return nil
}

// probeMount makes a file system without mounting it.
func probeMount(root string) error {
	if isBPFFS(root) {
		return nil
	}
	fd, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err == nil {
		defer unix.Close(fd)
		err = unix.FsconfigCreate(fd)
	}
	if err != nil {
		return &Unsupported{fmt.Sprintf("can't mount a BPF file system at %s (needs CAP_SYS_ADMIN)", root), err}
	}
	return nil
}
