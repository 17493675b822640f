package store

import (
	"encoding/json"

	"github.com/flatnet/flatnet/internal/model"
)

// SchemaFor is what values are written as that all these nodes are to read: the largest that every one of them knows. While a cluster
// is upgraded node by node that is the older one.
func SchemaFor(members map[string]model.Member) int {
	lowest := Schema
	for _, m := range members {
		lowest = min(lowest, max(m.Schema, 1))
	}
	return lowest
}

// As is the change with its value written as a schema, which is not larger than Schema. Values of today are the same in all.
func (c Change) As(schema int) Change {
	var e envelope
	if c.Delete || c.err != nil || schema == Schema {
		return c
	}
	if c.err = json.Unmarshal(c.Data, &e); c.err == nil {
		e.Schema = schema
		c.Data, c.err = json.Marshal(e)
	}
	return c
}
