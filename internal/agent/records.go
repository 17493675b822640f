package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// recordProblem says of a change that could not be written down, because a disk is full or cannot be written, which directory
// that is and what to do. Other errors stay as they are.
func recordProblem(err error) error {
	var at *fs.PathError
	if !errors.As(err, &at) {
		return err
	}
	dir := filepath.Dir(at.Path)
	p := model.Problem{Code: model.CodeRecords, Reason: fmt.Sprintf("the change could not be written to %s: %s", dir, err),
		Fix: fmt.Sprintf("nothing was changed; see what is wrong with %s, then try again", dir)}
	if isFull(err) {
		p.Reason = fmt.Sprintf("no space is left in %s: %s", dir, err)
		p.Fix = fmt.Sprintf("nothing was changed; free space there (see df -h %s), then try again", dir)
	}
	return p
}

// isFull tells a full disk from the kernel's own "no space", which is of its tables.
func isFull(err error) bool {
	var at *fs.PathError
	return errors.As(err, &at) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}

// restoreFiles puts back what somebody removed from the run directory: a restart would forget what is not there. Whether it
// has to costs a few stats.
func (a *Agent) restoreFiles(ctx context.Context) {
	if len(a.missing()) == 0 || a.begin(ctx) != nil {
		return
	}
	defer a.end()
	missing := a.missing()
	var errs []error
	for _, what := range slices.Sorted(maps.Keys(a.deps.Kept)) {
		errs = append(errs, a.deps.Kept[what].Restore())
	}
	a.writeAllFiles()
	a.rec.Kick() // programs may have been pinned there
	text := "somebody removed files from the run directory: " + strings.Join(missing, ", ")
	if err := errors.Join(errs...); err != nil {
		if a.restored != err.Error() {
			a.restored = err.Error()
			a.deps.Log.Error("put back files", "missing", missing, "err", err)
			a.event("error", "node", text+"; they could not be put back: "+err.Error())
		}
		return
	}
	a.restored = ""
	a.deps.Log.Warn("put back files that somebody removed", "missing", missing)
	a.event("restored", "node", text+"; put back")
}

func (a *Agent) missing() []string {
	var list []string
	for what, k := range a.deps.Kept {
		if k.Missing() {
			list = append(list, what)
		}
	}
	slices.Sort(list)
	return list
}

// endAgain is how long after a failure the ends of commands are noted again: they happened, and cannot be refused as requests.
const endAgain = time.Second

// noteLateEnds notes the ends of commands that could not be noted when they happened.
func (a *Agent) noteLateEnds(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.again:
		}
		pause(ctx, endAgain)
		a.mu.Lock()
		late := a.late
		a.late = map[string]int{}
		a.mu.Unlock()
		for name, code := range late {
			a.noteEnd(name, code, true)
		}
	}
}
