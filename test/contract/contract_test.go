// Package contract runs the kernel's contract over the real kernel, in namespaces; kerneltest runs it over the fake.
package contract

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/kernel/nft"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

func TestKernelKeepsTheContract(t *testing.T) {
	kerneltest.Contract(t, func(t *testing.T) kerneltest.Subject {
		topo := kerneltest.NewTopology(t)
		host, a, b := topo.Machine("host"), topo.Machine("a"), topo.Machine("b")
		a.IP("link set lo down")
		b.IP("link set lo down")
		return kerneltest.Subject{
			Kernel: openKernel(t, host), A: a.Path, B: b.Path, Managed: filepath.Join(filepath.Dir(a.Path), "managed"),
			Foreign: func(name string) { host.IP("link add " + name + " type veth peer name o-" + name) },
			Delete:  func(name string) { host.IP("link delete " + name) },
			Move:    func(name string) { host.IP("link set " + name + " netns " + b.Path) },
		}
	})
}

func openKernel(t testing.TB, host *kerneltest.Machine) *kernel.Kernel {
	t.Helper()
	var k *kernel.Kernel
	host.Do(func() error {
		rules, err := nft.New(nft.Config{})
		if err != nil {
			return err
		}
		k, err = kernel.New(kernel.Config{RunDir: t.TempDir(), Nft: rules})
		return err
	})
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}
