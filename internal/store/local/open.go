package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/flatnet/flatnet/internal/store"
)

// FileName is the store's file in the state directory.
const FileName = "flatnet.db"

// lockWait is for a flatnetd that is about to end: a service manager may start the next one while the last one closes.
const lockWait = time.Second

// Open opens the store of a state directory, and makes both when there is none. The error is a *LockedError when another
// process has it, a *DamagedError when the file cannot be trusted; the file is left as it is then.
func Open(stateDir string) (*Store, error) {
	path := filepath.Join(stateDir, FileName)
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := create(path); err != nil {
		return nil, fmt.Errorf("store %s: create: %w", path, err)
	}
	db, err := openFile(path)
	if err != nil {
		return nil, err
	}
	table, err := read(path, db)
	if err != nil {
		_ = guarded(path, db.Close)
		return nil, err
	}
	return &Store{path: path, db: db, table: table}, nil
}

// create makes an empty store in one step, so that a crash leaves none or a whole one, and an empty file is always damage.
func create(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), FileName+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if err := temp.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(temp.Name(), 0o600, &bolt.Options{Timeout: lockWait})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(bucket)
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) { // another process was faster
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func openFile(path string) (*bolt.DB, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if info.Size() == 0 { // bbolt would begin a new store
		return nil, &DamagedError{Path: path, Err: errors.New("it is empty")}
	}
	var db *bolt.DB
	var file *os.File
	keep := func(name string, flag int, mode os.FileMode) (*os.File, error) {
		var err error
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	err = guarded(path, func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, OpenFile: keep})
		return err
	})
	var pathErr *fs.PathError
	var damaged *DamagedError
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, &LockedError{Path: path, PID: lockHolder(info)}
	case errors.As(err, &damaged):
		_ = file.Close() // and with it the lock
		return nil, err
	case errors.As(err, &pathErr):
		return nil, fmt.Errorf("store: %w", err)
	}
	return nil, &DamagedError{Path: path, Err: err}
}

// read takes everything into memory, and on the way touches all that bbolt will ever read, so that damage shows now and
// here.
func read(path string, db *bolt.DB) (*store.Table, error) {
	var objects []store.Object
	var revision uint64
	err := guarded(path, func() error {
		return db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucket)
			if b == nil {
				return &DamagedError{Path: path, Err: fmt.Errorf("it has no bucket %q: not made by this flatnetd", bucket)}
			}
			revision = b.Sequence()
			if err := readRecords(b, func(o store.Object) { objects = append(objects, o) }); err != nil {
				return &DamagedError{Path: path, Err: err}
			}
			return checkPages(path, tx)
		})
	})
	if err != nil {
		return nil, err
	}
	return store.NewTable(revision, objects), nil
}

func readRecords(b *bolt.Bucket, each func(store.Object)) error {
	var last []byte
	search := b.Cursor()
	return b.ForEach(func(key, value []byte) error {
		if last != nil && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("record %q is out of order", key)
		}
		last = bytes.Clone(key)
		if found, _ := search.Seek(key); !bytes.Equal(found, key) {
			return fmt.Errorf("record %q is not found where it must be", key)
		}
		o, err := decode(key, value)
		if err != nil {
			return fmt.Errorf("record %q: %w", key, err)
		}
		each(o)
		return nil
	})
}

// checkPages finds pages that are both free and in use, which the next change would overwrite. It runs in a goroutine of
// bbolt's, where a fault cannot be caught; by now every page that it reads was read once.
func checkPages(path string, tx *bolt.Tx) error {
	var first error
	for err := range tx.Check() {
		if first == nil {
			first = err
		}
	}
	if first != nil {
		return &DamagedError{Path: path, Err: first}
	}
	return nil
}

// guarded turns what bbolt does about a damaged file, a panic or a fault in its mapped memory, into an error.
func guarded(path string, do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &DamagedError{Path: path, Err: fmt.Errorf("%v", r)}
		}
	}()
	return do()
}

// LockedError says that another process uses the store.
type LockedError struct {
	Path string
	PID  int // 0 when unknown
}

func (e *LockedError) Error() string {
	who := "another flatnetd"
	if e.PID != 0 {
		who += fmt.Sprintf(" (pid %d)", e.PID)
	}
	return fmt.Sprintf("store %s: %s uses it: stop that one, or give this one a state directory of its own", e.Path, who)
}

// DamagedError says that the store's file cannot be trusted.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("store %s: the file is damaged: %s: it was left as it is; restore a copy, or move it away to begin with an empty store", e.Path, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// lockHolder looks up who has the lock on a file (proc(5), /proc/locks); 0 when it cannot be told.
func lockHolder(info fs.FileInfo) int {
	stat, ok := info.Sys().(*syscall.Stat_t)
	locks, err := os.ReadFile("/proc/locks")
	if !ok || err != nil {
		return 0
	}
	inode := fmt.Sprintf(":%d", stat.Ino)
	for _, line := range strings.Split(string(locks), "\n") {
		f := strings.Fields(line) // 1: FLOCK ADVISORY WRITE 812 fd:01:1234 0 EOF
		if len(f) >= 6 && f[1] == "FLOCK" && strings.HasSuffix(f[5], inode) {
			pid, _ := strconv.Atoi(f[4])
			return max(pid, 0)
		}
	}
	return 0
}
