package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/flatnet/flatnet/api"
	"sigs.k8s.io/yaml"
)

const defaultConfigFile = "/etc/flatnet/config.yaml"

// config is what the file may say to this tool; flatnetd reads other fields of the same file.
type config struct {
	Socket string `json:"socket"`
}

// loadConfig settles the settings: flag, then environment, then file.
func (a *app) loadConfig() error {
	text, err := os.ReadFile(a.configFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := yaml.Unmarshal(text, &a.config); err != nil {
		return fmt.Errorf("read configuration %s: %w", a.configFile, err)
	}
	for _, s := range []string{a.socketFlag, a.getenv("FLATNET_SOCKET"), a.config.Socket, api.DefaultSocket} {
		if s != "" {
			a.config.Socket = s
			break
		}
	}
	return nil
}

func (a *app) client() *api.Client { return api.New(a.config.Socket) }
