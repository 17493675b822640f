package kernel

// LooksShort reports whether the next look at the host will be a short one.
func (k *Kernel) LooksShort() bool { return k.told.serves() }
