package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/journal"
	"github.com/flatnet/flatnet/internal/store/local"
)

// A daemon that is started while the one before still ends waits for it; where that stays, the error is clear.
func TestAStartWaitsForTheDaemonThatEnds(t *testing.T) {
	dir := t.TempDir()
	before, _, err := journal.Open(dir, "boot")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := local.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	open := func() (*journal.Journal, error) {
		j, _, err := journal.Open(dir, "boot")
		return j, err
	}
	c := &claims{log: slog.New(slog.DiscardHandler)} // has no time left
	if _, err := claim(t.Context(), c, open); err == nil || !strings.Contains(err.Error(), "another flatnetd uses it: stop that one") {
		t.Errorf("the one before stays: %v", err)
	}
	if _, err := claim(t.Context(), c, func() (*local.Store, error) { return local.Open(filepath.Join(dir, "state")) }); err == nil || !strings.Contains(err.Error(), "another flatnetd (pid") {
		t.Errorf("the one before stays: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	c.deadline = time.Now().Add(time.Hour)
	if _, err := claim(ended, c, open); err == nil {
		t.Error("claimed what another one has")
	}
	go func() {
		pause(t.Context(), 3*claimPause)
		before.Close()
		kept.Close()
	}()
	j, err := claim(t.Context(), c, open)
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	if !c.waited {
		t.Error("it did not say that it waits")
	}
}
