package store

import (
	"time"

	"golang.org/x/sys/unix"
)

// Boottime is the time since the machine started, its sleep included: CLOCK_BOOTTIME. Nobody can set it, and a machine
// that wakes up knows that its grace may be over, which Go's own monotonic clock (CLOCK_MONOTONIC) would hide.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // cannot be: Linux has it since 2.6.39
	}
	return time.Duration(ts.Nano())
}
