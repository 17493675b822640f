package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// hostLocal are the books of CNI's host-local plugin: a directory for each of its networks, in it a file for each address that a container has, made
// with O_EXCL (containernetworking/plugins, plugins/ipam/host-local/backend/disk). On a host that moves to flatnet its containers live on, so their
// addresses are not given again; and what flatnet gives of the same range it enters too, as long as the book is there: so an ADD of host-local that is
// under way, or one after the host moved back, does not give it either. docs/decisions/0018-host-local.md
//
// The agent's token guards it.
type hostLocal struct {
	dir string // empty: nobody looks
	log *slog.Logger
	now func() time.Time

	listed  time.Time           // when dir was changed last, as of the list
	books   []*book             // directories below dir
	entered map[string][]string // by workload: files of ours
}

// book is one network of host-local.
type book struct {
	path string
	last []netip.Addr // the address given last, one of each range: they tell which ranges there are; zero: not read yet
	read time.Time    // when path was changed last, as of last
}

// entryMark begins what our entries say; host-local's begin with a container's ID. Behind it are the workload's name and its link.
const entryMark = "flatnet "

// unlinked begins the name of an entry that is being written.
const unlinked = ".flatnet-entry"

// entryLimit is how many bytes a file of a book has at most: host-local writes a container's ID and a link's name, or an address.
const entryLimit = 4096

// settled is how old a change of a directory must be for its time to tell it from the next one: file systems count in ticks of the kernel.
const settledAge = time.Second

func newHostLocal(dir string, log *slog.Logger, now func() time.Time) *hostLocal {
	return &hostLocal{dir: dir, log: log, now: now, entered: map[string][]string{}}
}

// list brings the books up to date: one look at a directory's time when nothing has come or gone.
func (h *hostLocal) list() []*book {
	if h.dir == "" {
		return nil
	}
	info, err := os.Stat(h.dir)
	if err != nil {
		h.books, h.listed = nil, time.Time{}
		return nil
	}
	if info.ModTime().Equal(h.listed) {
		return h.books
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		h.log.Warn("read the addresses of CNI's host-local", "dir", h.dir, "err", err)
		return h.books
	}
	known := h.books
	h.books, h.listed = nil, info.ModTime()
	for _, e := range entries {
		path := filepath.Join(h.dir, e.Name())
		if i := slices.IndexFunc(known, func(b *book) bool { return b.path == path }); i >= 0 {
			h.books = append(h.books, known[i])
		} else if e.IsDir() || e.Type() == fs.ModeSymlink { // what it leads to may come later, and the time of dir does not tell
			h.books = append(h.books, &book{path: path})
		}
	}
	if h.now().Sub(h.listed) < settledAge {
		h.listed = time.Time{}
	}
	return h.books
}

// holds reports whether an address is in a book.
func (h *hostLocal) holds(a netip.Addr) bool {
	for _, b := range h.list() {
		if _, err := os.Lstat(b.entry(a)); err == nil {
			return true
		}
	}
	return false
}

func (b *book) entry(a netip.Addr) string { return filepath.Join(b.path, a.String()) }

// about reports whether host-local gives addresses of a prefix by this book.
func (b *book) about(p netip.Prefix, now time.Time) bool {
	info, err := os.Stat(b.path)
	if err != nil {
		return false
	}
	if !info.ModTime().Equal(b.read) {
		b.readLast()
		if b.read = info.ModTime(); now.Sub(b.read) < settledAge {
			b.read = time.Time{}
		}
	}
	return slices.ContainsFunc(b.last, func(a netip.Addr) bool { return !a.IsValid() || p.Contains(a) })
}

// readLast reads the address given last of each range. host-local does not write them as a whole: one that is empty just now is as before, or the zero
// one, that may be of any range.
func (b *book) readLast() {
	for i := 0; ; i++ {
		text, err := readEntry(filepath.Join(b.path, "last_reserved_ip."+strconv.Itoa(i)))
		if err != nil {
			b.last = b.last[:min(i, len(b.last))]
			return
		}
		a, _ := netip.ParseAddr(strings.TrimSpace(text))
		if i == len(b.last) {
			b.last = append(b.last, a)
		} else if a.IsValid() {
			b.last[i] = a
		}
	}
}

// readEntry reads a file of a book. Anything else of that name is an error, and none waits for it: the agent's token is held.
func readEntry(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > entryLimit {
		return "", errors.Join(err, &fs.PathError{Op: "read", Path: path, Err: fs.ErrInvalid})
	}
	text, err := io.ReadAll(io.LimitReader(f, entryLimit))
	return string(text), err
}

// mostLost is how often an ADD looks for another address when host-local was faster: as often as there are ADDs of the old chain at once, and more.
const mostLost = 64

// heldError is an address that host-local gave to somebody else.
type heldError struct{ problem model.Problem }

func (e *heldError) Error() string { return e.problem.Error() }
func (e *heldError) Unwrap() error { return e.problem }

// enter writes the addresses of a workload into the books that are about their subnets. An address that host-local has given in the meantime is a
// *heldError; then nothing more of the workload is entered than before.
func (h *hostLocal) enter(w model.Workload, networks map[string]model.Network) error {
	var came []string
	for _, e := range w.Endpoints {
		for _, a := range e.Addrs {
			s, ok := networks[e.Network].Subnet(a)
			if !ok {
				continue
			}
			for _, b := range h.list() {
				path := b.entry(a)
				if slices.Contains(h.entered[w.Name], path) || !b.about(s.Prefix, h.now()) {
					continue
				}
				text := entryMark + w.Name + "\r\n" + e.IfName
				err := b.write(path, text)
				if errors.Is(err, fs.ErrExist) {
					if there, _ := readEntry(path); there != text { // else a link leads two names to one book
						h.strike(came)
						return &heldError{held(a, path)}
					}
				} else if err != nil {
					h.log.Warn("tell CNI's host-local of an address", "workload", w.Name, "err", err)
					continue
				}
				came = append(came, path)
			}
		}
	}
	if len(came) > 0 {
		h.entered[w.Name] = append(h.entered[w.Name], came...)
	}
	return nil
}

func held(a netip.Addr, path string) model.Problem {
	owner := path
	if text, err := readEntry(path); err == nil {
		id, _, _ := strings.Cut(strings.TrimSpace(text), "\r\n")
		owner = fmt.Sprintf("container %s (%s)", id, path)
	}
	return model.Problem{Code: model.CodeAddressTaken, Path: "ips", Reason: fmt.Sprintf("%s is a container's that CNI's host-local gave it to", a),
		Owner: owner, Fix: "leave it out to have a free one"}
}

// write makes an entry as a whole, or not at all. It writes only into a file that it has made.
func (b *book) write(path, text string) error {
	f, err := os.CreateTemp(b.path, unlinked)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // one that stays is swept at the next start
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// keep strikes out the entries of a workload that it has no address for any more; nil has none.
func (h *hostLocal) keep(name string, w *model.Workload) {
	var gone []string
	stays := h.entered[name][:0]
	for _, path := range h.entered[name] {
		if w != nil && hasAddr(*w, filepath.Base(path)) {
			stays = append(stays, path)
		} else {
			gone = append(gone, path)
		}
	}
	h.strike(gone)
	if h.entered[name] = stays; len(stays) == 0 {
		delete(h.entered, name)
	}
}

func hasAddr(w model.Workload, text string) bool {
	return slices.ContainsFunc(w.Endpoints, func(e model.Endpoint) bool {
		return slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool { return a.String() == text })
	})
}

// strike takes entries of ours out.
func (h *hostLocal) strike(paths []string) {
	for _, path := range paths {
		if text, err := readEntry(path); err != nil || !strings.HasPrefix(text, entryMark) {
			continue // somebody has cleaned up, and host-local given it since
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("take an address from the book of CNI's host-local", "err", err)
		}
	}
}

// enterBooks tells host-local of the addresses of workloads that come or change.
func (a *Agent) enterBooks(e edit) error {
	for _, w := range e.workloads {
		if w == nil {
			continue
		}
		if err := a.hostLocal.enter(*w, a.view().Networks); err != nil {
			return err
		}
	}
	return nil
}

// sweep reads the entries of ours that a flatnetd before left, and strikes out those of workloads that are no more: a crash came between, or a reboot.
func (h *hostLocal) sweep(workloads map[string]model.Workload) {
	for _, b := range h.list() {
		entries, _ := os.ReadDir(b.path)
		for _, e := range entries {
			path := filepath.Join(b.path, e.Name())
			if strings.HasPrefix(e.Name(), unlinked) {
				_ = os.Remove(path)
				continue
			}
			if _, err := netip.ParseAddr(e.Name()); err != nil {
				continue
			}
			text, _ := readEntry(path)
			rest, ours := strings.CutPrefix(text, entryMark)
			if !ours {
				continue
			}
			name, _, _ := strings.Cut(rest, "\r\n")
			if w, there := workloads[name]; there && hasAddr(w, e.Name()) {
				h.entered[name] = append(h.entered[name], path)
			} else {
				h.strike([]string{path})
			}
		}
	}
}
