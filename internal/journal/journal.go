package journal

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/flatnet/flatnet/internal/model"
)

// FileName is the journal's file in the run directory; BadName is where a damaged one is kept for people to look at.
const (
	FileName = "journal"
	BadName  = "journal.bad"
)

// Journal is open for one process. Its methods may be called by several goroutines.
type Journal struct {
	path string
	lock *os.File // the run directory, locked

	mu      sync.Mutex
	file    *os.File
	history history
	size    int    // bytes of the file that are whole records
	buf     []byte // the last record written
	failed  error  // why nothing can be appended any more
}

// Report says what Open found that was not as it should be; the zero Report is nothing.
type Report struct {
	OtherBoot bool   // the journal was of another boot and was dropped
	Torn      int    // bytes of a last record that was not written to its end: the change it held never took place
	Damage    []Span // elsewhere; the file was moved to BadName
	Missing   uint64 // how many records that may have been, by their numbers
}

func (r Report) String() string {
	switch {
	case r.OtherBoot:
		return "journal of another boot dropped"
	case len(r.Damage) > 0:
		return fmt.Sprintf("journal damaged in %d places, first at byte %d: %d records lost, the rest was read; kept as %s", len(r.Damage), r.Damage[0].Offset, r.Missing, BadName)
	case r.Torn > 0:
		return fmt.Sprintf("journal ended in %d bytes of a record not written to its end: cut off", r.Torn)
	}
	return "journal in order"
}

// ErrLocked says that another process has the journal.
var ErrLocked = errors.New("another flatnetd uses it")

// Open reads the journal of a run directory, or begins one. bootID is the kernel's, /proc/sys/kernel/random/boot_id.
func Open(runDir, bootID string) (*Journal, Report, error) {
	j := &Journal{path: filepath.Join(runDir, FileName)}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, Report{}, fmt.Errorf("journal: %w", err)
	}
	if err := j.takeLock(runDir); err != nil {
		return nil, Report{}, err
	}
	report, err := j.read(bootID)
	if err != nil {
		j.lock.Close()
		return nil, Report{}, fmt.Errorf("journal %s: %w", j.path, err)
	}
	return j, report, nil
}

// takeLock locks the directory: the file itself is replaced now and then.
func (j *Journal) takeLock(runDir string) error {
	dir, err := os.Open(runDir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("journal %s: %w: stop that one, or give this one a run directory of its own", j.path, ErrLocked)
		}
		return fmt.Errorf("journal %s: lock: %w", runDir, err)
	}
	j.lock = dir
	return nil
}

func (j *Journal) read(bootID string) (Report, error) {
	b, err := os.ReadFile(j.path)
	if errors.Is(err, os.ErrNotExist) {
		j.history = history{bootID: bootID, entries: map[string]entry{}}
		return Report{}, j.rewrite()
	}
	if err != nil {
		return Report{}, err
	}
	h, damage := replay(b)
	report := judge(h, damage, len(b), bootID)
	switch {
	case report.OtherBoot:
		j.history = history{bootID: bootID, generation: h.generation, entries: map[string]entry{}}
		return report, j.rewrite()
	case len(b) == 0:
		j.history = history{bootID: bootID, entries: map[string]entry{}}
		return Report{}, j.rewrite()
	case len(report.Damage) > 0:
		if err := os.WriteFile(filepath.Join(filepath.Dir(j.path), BadName), b, 0o600); err != nil {
			return Report{}, err
		}
		j.history = h
		j.history.bootID = bootID
		return report, j.rewrite()
	}
	j.history, j.size = h, len(b)-report.Torn
	return report, j.reopen()
}

// judge tells a torn end from damage elsewhere.
func judge(h history, damage []Span, size int, bootID string) Report {
	if h.bootID != "" && h.bootID != bootID {
		return Report{OtherBoot: true}
	}
	report := Report{Damage: damage, Missing: h.missing}
	if n := len(damage); n > 0 {
		if last := damage[n-1]; last.Offset+last.Len == size && last.Offset > 0 {
			report.Torn, report.Damage = last.Len, damage[:n-1]
		}
	}
	if len(report.Damage) == 0 {
		report.Missing = 0
	}
	return report
}

// reopen goes on at the end of what is whole.
func (j *Journal) reopen() error {
	f, err := os.OpenFile(j.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(j.size)); err != nil {
		f.Close()
		return err
	}
	j.file = f
	return nil
}

// rewrite begins a new file with what is alive, and replaces the old one by it in one step.
func (j *Journal) rewrite() error {
	b, err := j.history.encode()
	if err != nil {
		return err
	}
	temp := j.path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = os.Rename(temp, j.path)
	}
	if err != nil {
		os.Remove(temp)
		f.Close()
		return err
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.size = f, len(b)
	return nil
}

// encode is a file of this history and nothing else: a head of the last generation, then the records that are alive.
func (h history) encode() ([]byte, error) {
	b := make([]byte, 0, h.live+256)
	b, err := appendRecord(b, record{op: opHead, generation: h.generation, body: []byte(h.bootID)})
	for _, name := range slices.Sorted(maps.Keys(h.entries)) {
		b = append(b, h.entries[name].record...)
	}
	return b, err
}

// Load returns the workloads that run. The map is the caller's; what the workloads point to is shared and not to be changed.
func (j *Journal) Load() map[string]model.Workload {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := make(map[string]model.Workload, len(j.history.entries))
	for name, e := range j.history.entries {
		all[name] = e.workload
	}
	return all
}

// Past returns, once, the workloads with endpoints that the file told of when it was opened, in order: also those that have
// ended since the file was last rewritten, so that their addresses are known even when nobody had time to save them.
func (j *Journal) Past() []model.Workload {
	j.mu.Lock()
	defer j.mu.Unlock()
	past := j.history.past
	j.history.past = nil
	return past
}

// Generation is the number of changes ever made; it grows over restarts too, as long as the machine runs.
func (j *Journal) Generation() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.history.generation
}

// Put remembers a workload as it is now, in place of one of the same name. What it points to is not to be changed after.
func (j *Journal) Put(w model.Workload) error {
	body, err := encodeWorkload(w)
	if err == nil && w.Name == "" {
		err = errors.New("it has no name")
	}
	if err != nil {
		return fmt.Errorf("journal: put workload %q: %w", w.Name, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(opPut, body); err != nil {
		return fmt.Errorf("journal: put workload %q: %w", w.Name, err)
	}
	j.history.remember(w, j.buf)
	j.compact()
	return nil
}

// Delete forgets a workload; of one that is not there it does nothing.
func (j *Journal) Delete(name string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.history.entries[name]; !ok {
		return nil
	}
	if err := j.append(opDelete, []byte(name)); err != nil {
		return fmt.Errorf("journal: delete workload %q: %w", name, err)
	}
	j.history.forget(name)
	j.compact()
	return nil
}

// append writes one record. When only a part could be written it is taken back, so that the next one can be found.
func (j *Journal) append(o op, body []byte) (err error) {
	if j.failed != nil {
		return j.failed
	}
	if j.buf, err = appendRecord(j.buf[:0], record{op: o, generation: j.history.generation + 1, body: body}); err != nil {
		return err
	}
	if _, err := j.file.WriteAt(j.buf, int64(j.size)); err != nil {
		if cut := j.file.Truncate(int64(j.size)); cut != nil {
			err = errors.Join(err, cut)
		}
		return err
	}
	j.size += len(j.buf)
	j.history.generation++
	return nil
}

const smallest = 256 << 10 // bytes; below that a new file costs more than the memory of the old one

// compact halves the file at least, so its cost is shared by as many bytes appended. Failing is no loss: the old file
// goes on, and the next change tries again.
func (j *Journal) compact() {
	if j.size > smallest && j.size-j.history.live > j.size/2 {
		_ = j.rewrite()
	}
}

// Missing reports whether the file is gone, or another one stands in its place: a restart would forget what is in memory.
func (j *Journal) Missing() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed == nil && !j.isThere()
}

func (j *Journal) isThere() bool {
	ours, err := j.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(j.path)
	return err == nil && os.SameFile(ours, there)
}

// Restore writes the file anew from memory when it is missing, and locks its directory when that is another one by now.
func (j *Journal) Restore() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil || j.isThere() {
		return nil
	}
	dir := filepath.Dir(j.path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	old := j.lock
	if err := j.takeLock(dir); err != nil && !sameDir(old, dir) {
		return err
	}
	if j.lock != old {
		old.Close()
	}
	if err := j.rewrite(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func sameDir(open *os.File, path string) bool {
	a, errA := open.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// Close gives the journal free for another process.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(j.failed, os.ErrClosed) {
		return nil
	}
	j.failed = os.ErrClosed
	return errors.Join(j.file.Close(), j.lock.Close())
}
