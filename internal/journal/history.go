package journal

import (
	"errors"
	"fmt"

	"github.com/flatnet/flatnet/internal/model"
)

// history is what the records of a file add up to.
type history struct {
	bootID     string
	generation uint64           // of the last record
	missing    uint64           // records that were there by their generations, but could not be read
	entries    map[string]entry // by workload name
	live       int              // bytes of their records
	past       []model.Workload // every workload with endpoints that was read, in order, also such as are no more
}

type entry struct {
	workload model.Workload
	record   []byte // as it is in the file, to be copied when the file is rewritten
}

var errRecord = errors.New("a record that says nothing")

// replay reads a whole file.
func replay(b []byte) (history, []Span) {
	h := history{entries: map[string]entry{}}
	damage := scan(b, h.apply)
	return h, damage
}

// apply takes one record. Generations only grow: a gap is records lost.
func (h *history) apply(r record, raw []byte) error {
	switch r.op {
	case opHead:
		h.bootID = string(r.body)
		h.generation = max(h.generation, r.generation)
		return nil
	case opPut:
		w, err := decodeWorkload(r.body)
		if err != nil {
			return err
		}
		h.remember(w, raw)
		if len(w.Endpoints) > 0 {
			h.past = append(h.past, w)
		}
	case opDelete:
		h.forget(string(r.body))
	default:
		return fmt.Errorf("operation %q: %w", r.op, errRecord)
	}
	if begun := h.bootID != "" || h.generation > 0; begun && r.generation > h.generation+1 {
		h.missing += r.generation - h.generation - 1
	}
	h.generation = max(h.generation, r.generation)
	return nil
}

// remember copies the record.
func (h *history) remember(w model.Workload, raw []byte) {
	reuse := h.entries[w.Name].record[:0]
	h.forget(w.Name)
	e := entry{workload: w, record: append(reuse, raw...)}
	h.entries[w.Name] = e
	h.live += len(e.record)
}

func (h *history) forget(name string) {
	h.live -= len(h.entries[name].record)
	delete(h.entries, name)
}
