package join

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Folder is the directory in which a host keeps what it is in a cluster. Only root may read its files.
type Folder string

// Path is that of a file in the folder.
func (f Folder) Path(name string) string { return filepath.Join(string(f), name) }

// Write replaces a file, durably when it returns: after a crash it is the old one or the new one.
func (f Folder) Write(name string, data []byte) error {
	if err := f.write(name, data); err != nil {
		return fmt.Errorf("write %s: %w", f.Path(name), err)
	}
	return nil
}

func (f Folder) write(name string, data []byte) error {
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return err
	}
	temp := f.Path(name + ".new")
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, f.Path(name)); err != nil {
		return err
	}
	return f.sync()
}

// Append adds to a file that there is, durably when it returns: after a crash all of it is there, or a beginning of it.
func (f Folder) Append(name string, data []byte) error {
	file, err := os.OpenFile(f.Path(name), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = file.Write(data)
		err = errors.Join(err, file.Sync(), file.Close())
	}
	if err != nil {
		return fmt.Errorf("add to %s: %w", f.Path(name), err)
	}
	return nil
}

// sync makes the names of the files durable.
func (f Folder) sync() error {
	dir, err := os.Open(string(f))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Read returns a file; nil when there is none.
func (f Folder) Read(name string) ([]byte, error) {
	data, err := os.ReadFile(f.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// Key reads a private key, and makes it first when there is none.
func (f Folder) Key(name string) (*ecdsa.PrivateKey, error) {
	data, err := f.Read(name)
	if err != nil {
		return nil, err
	}
	if data == nil {
		return f.newKey(name)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(name), err)
	}
	return key, nil
}

func (f Folder) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, f.Write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	der, err := pemBytes(data, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	any, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	return key, nil
}

// Certificate reads a certificate; nil when there is none.
func (f Folder) Certificate(name string) (*x509.Certificate, error) {
	data, err := f.Read(name)
	if err != nil || data == nil {
		return nil, err
	}
	der, err := pemBytes(data, "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(name), err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(name), err)
	}
	return c, nil
}

// WriteCertificate keeps a certificate, given as it came, with those behind it that it is shown with.
func (f Folder) WriteCertificate(name string, der ...[]byte) error {
	var text []byte
	for _, one := range der {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one})...)
	}
	return f.Write(name, text)
}

func pemBytes(data []byte, kind string) ([]byte, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("there is no %s in it", kind)
	}
	return block.Bytes, nil
}

// Remove takes a file away; it is no error when there is none.
func (f Folder) Remove(name string) error {
	if err := os.Remove(f.Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RemoveAll takes the folder away with everything in it.
func (f Folder) RemoveAll() error { return os.RemoveAll(string(f)) }
