package foreign

import "bytes"

// truth is a decision that may be open.
type truth uint8

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return yes - t }

// data is bytes of which some bits are known.
type data struct {
	value, known []byte
	notZero      bool // though not known, it is not zero
}

func unknown(n int) data { return data{value: make([]byte, n), known: make([]byte, n)} }

func known(b ...byte) data {
	return data{value: b, known: bytes.Repeat([]byte{0xff}, len(b))}
}

// sized cuts or pads with what is not known.
func (d data) sized(n int) data {
	out := unknown(n)
	copy(out.value, d.value)
	copy(out.known, d.known)
	out.notZero = d.notZero && n >= len(d.value)
	return out
}

func (d data) masked(mask []byte) data {
	if mask == nil {
		return d
	}
	out := d.sized(len(d.value))
	out.notZero = false
	for i := range out.value {
		if i < len(mask) {
			out.value[i] &= mask[i]
			out.known[i] |= ^mask[i]
		}
	}
	return out
}

func (d data) complete() bool {
	for _, k := range d.known {
		if k != 0xff {
			return false
		}
	}
	return true
}

func (d data) equals(b []byte) truth {
	if len(d.value) != len(b) {
		return maybe
	}
	zero := true
	for i := range b {
		if (d.value[i]^b[i])&d.known[i] != 0 {
			return no
		}
		zero = zero && b[i] == 0
	}
	switch {
	case d.complete():
		return yes
	case zero && d.notZero:
		return no
	}
	return maybe
}

// compare orders d and b when d is known: -1, 0, 1.
func (d data) compare(b []byte) (int, bool) {
	if !d.complete() || len(d.value) != len(b) {
		return 0, false
	}
	return bytes.Compare(d.value, b), true
}

func (d data) within(first, last []byte) truth {
	low, ok := d.compare(first)
	high, ok2 := d.compare(last)
	if !ok || !ok2 {
		return maybe
	}
	return truthOf(low >= 0 && high <= 0)
}

// holds decides the condition for a packet.
func (c Condition) holds(p packet) truth {
	switch c.Op {
	case Opaque:
		return maybe
	case XT:
		if t := c.Match.holds(p); c.Invert {
			return t.not()
		} else {
			return t
		}
	case In:
		return c.Set.contains(p.load(c.Loads))
	case NotIn:
		return c.Set.contains(p.load(c.Loads)).not()
	}
	d := p.load(c.Loads).masked(c.Mask)
	switch c.Op {
	case Equal:
		return d.sized(len(c.Value)).equals(c.Value)
	case NotEqual:
		return d.sized(len(c.Value)).equals(c.Value).not()
	case Between:
		return d.sized(len(c.Value)).within(c.Value, c.Upper)
	case Outside:
		return d.sized(len(c.Value)).within(c.Value, c.Upper).not()
	}
	order, ok := d.sized(len(c.Value)).compare(c.Value)
	if !ok {
		return maybe
	}
	switch c.Op {
	case Less:
		return truthOf(order < 0)
	case LessOrEqual:
		return truthOf(order <= 0)
	case Greater:
		return truthOf(order > 0)
	}
	return truthOf(order >= 0)
}

func (s *Set) contains(key data) truth {
	found := no
	s.lookup(key, func(_ Element, t truth) { found = max(found, t) })
	if s.Partial {
		found = max(found, maybe)
	}
	return found
}

// lookup tells each element that the key is, or may be.
func (s *Set) lookup(key data, each func(Element, truth)) {
	if s.Interval {
		s.lookupInterval(key, each)
		return
	}
	for _, e := range s.Elements {
		if t := e.has(key, s.Parts); t != no {
			each(e, t)
		}
	}
}

// lookupInterval looks in ranges given by their ends, in order: those of sets with keys of one part.
func (s *Set) lookupInterval(key data, each func(Element, truth)) {
	for i, e := range s.Elements {
		if e.End {
			continue
		}
		t := maybe
		if low, ok := key.compare(e.Key); ok {
			t = truthOf(low >= 0)
			if next := i + 1; next < len(s.Elements) && t == yes {
				above, _ := key.compare(s.Elements[next].Key)
				t = truthOf(above < 0)
			}
		}
		if t != no {
			each(e, t)
		}
	}
}

// has compares the key part by part, as a range of a concatenation is one of ranges.
func (e Element) has(key data, parts []int) truth {
	if e.Last == nil {
		return key.sized(len(e.Key)).equals(e.Key)
	}
	result, at := yes, 0
	for _, n := range parts {
		if at+n > min(len(e.Key), len(e.Last), len(key.value)) {
			return maybe
		}
		part := data{value: key.value[at : at+n], known: key.known[at : at+n]}
		result = min(result, part.within(e.Key[at:at+n], e.Last[at:at+n]))
		at += padded(n)
	}
	return result
}

func padded(n int) int { return (n + 3) &^ 3 }
