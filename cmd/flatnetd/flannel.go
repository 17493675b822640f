package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/flatnet/flatnet/internal/agent"
	"github.com/flatnet/flatnet/internal/compat/flannel"
)

// flannelConfig says which flannel this host is a node of; none without Etcd.
type flannelConfig struct {
	Etcd       string // URLs, with commas
	CA         string // files
	Cert       string
	Key        string
	Prefix     string
	SubnetFile string
	Iface      string
	Bridge     string
}

func flannelSettings() []setting {
	text := func(field func(*flannelConfig) *string) func(*config, string) error {
		return func(c *config, s string) error { *field(&c.Flannel) = s; return nil }
	}
	return []setting{
		{"flannel-etcd", "", "be one of flannel's nodes, in flanneld's place: URLs of its etcd, with commas (default: none)", setFlannelEtcd},
		{"flannel-etcd-ca", "", "file of the authority that etcd's certificate must be of", text(func(c *flannelConfig) *string { return &c.CA })},
		{"flannel-etcd-cert", "", "file of the certificate to show to etcd", text(func(c *flannelConfig) *string { return &c.Cert })},
		{"flannel-etcd-key", "", "file of that certificate's key", text(func(c *flannelConfig) *string { return &c.Key })},
		{"flannel-prefix", flannel.DefaultPrefix, "where flannel's keys stand in etcd", text(func(c *flannelConfig) *string { return &c.Prefix })},
		{"flannel-subnet-file", flannel.DefaultSubnetFile, "file that flannel's CNI plugin reads", text(func(c *flannelConfig) *string { return &c.SubnetFile })},
		{"flannel-iface", "", "link or address by which the other nodes reach this one (default: that of the default route)", text(func(c *flannelConfig) *string { return &c.Iface })},
		{"flannel-bridge", flannel.BridgeAuto, "whose cni0 is: theirs, the CNI plugin's, on which flatnet's workloads stand too; ours; or auto", func(c *config, s string) error {
			if s != flannel.BridgeAuto && s != flannel.BridgeOurs && s != flannel.BridgeTheirs {
				return fmt.Errorf("%q is neither auto nor ours nor theirs", s)
			}
			c.Flannel.Bridge = s
			return nil
		}},
	}
}

func setFlannelEtcd(c *config, s string) error {
	c.Flannel.Etcd = s
	for _, word := range c.Flannel.endpoints() {
		if u, err := url.Parse(word); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("%q is no URL of etcd, like http://192.0.2.1:2379", word)
		}
	}
	return nil
}

func (c flannelConfig) endpoints() []string {
	if c.Etcd == "" {
		return nil
	}
	words := strings.Split(c.Etcd, ",")
	for i, word := range words {
		words[i] = strings.TrimSpace(word)
	}
	return words
}

// elsewhere is the way to flannel; nil when there is none.
func (c flannelConfig) elsewhere(log *slog.Logger) (*agent.Elsewhere, error) {
	if c.Etcd == "" {
		return nil, nil
	}
	t, err := c.tls()
	if err != nil {
		return nil, err
	}
	r := flannel.NewResident(flannel.Options{
		Settings:   flannel.Settings{Endpoints: c.endpoints(), TLS: t, Prefix: c.Prefix},
		SubnetFile: c.SubnetFile, Iface: c.Iface, Bridge: c.Bridge, Version: release(), Log: log,
	})
	return &agent.Elsewhere{Open: r.Open, Describe: r.Describe, Adopted: r.Adopted}, nil
}

// tls is what etcd is spoken to with; nil: what the URLs say.
func (c flannelConfig) tls() (*tls.Config, error) {
	if c.CA == "" && c.Cert == "" && c.Key == "" {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		data, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("--flannel-etcd-ca: %w", err)
		}
		if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("--flannel-etcd-ca: no certificate in %s", c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("--flannel-etcd-cert and --flannel-etcd-key need each other")
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("--flannel-etcd-cert: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
