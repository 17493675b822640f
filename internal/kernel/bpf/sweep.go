package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// sweep removes what nothing uses any longer: maps without programs, directories without either, and our mount.
func (c *Conn) sweep() error {
	versions, err := c.versions()
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	used := 0
	for _, v := range versions {
		gone, err := c.sweepVersion(v)
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		if !gone {
			used++
		}
	}
	if used > 0 || !isBPFFS(c.root) {
		return nil
	}
	return c.unmount()
}

func (c *Conn) sweepVersion(version string) (gone bool, err error) {
	links, err := c.links(version)
	if err != nil || len(links) > 0 {
		return false, err
	}
	if version == c.version {
		if full, err := c.hasForwards(); full || err != nil {
			return false, err
		}
	}
	for _, name := range []string{loopbackMapForwards, loopbackMapPeers} {
		err = errors.Join(err, ignoreMissing(os.Remove(filepath.Join(c.root, version, name))))
	}
	return true, errors.Join(err, ignoreMissing(os.Remove(filepath.Join(c.root, version))))
}

func (c *Conn) hasForwards() (bool, error) {
	m, err := ebpf.LoadPinnedMap(c.pin(loopbackMapForwards), nil)
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer m.Close()
	var first loopbackForwardKey
	err = m.NextKey(nil, &first)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil, err
}
