package agent

import (
	"runtime/debug"
	"sync/atomic"
)

// manyParts is how many parts of a picture leave much garbage behind.
const manyParts = 1000

// What the collector leaves in percent of what is in use, before it looks again.
const (
	usual    = 100 // Go's own
	lavishly = 400
	thrifty  = 50
)

// ballast is memory that nobody touches, so it takes none. The collector counts it as in use, and lets as much garbage be: a daemon with a
// hundred workloads has 3 MB in use, and would collect with every twentieth attachment, for each of which the world stops.
var ballast atomic.Pointer[[16 << 20]byte]

func takeBallast() { ballast.Store(new([16 << 20]byte)) }

// lavish lets the collector rest while thousands of parts are made, of which most stay. thrift ends that.
func lavish() { collect(lavishly) }

// thrift gives memory back that thousands of parts took to be made, and keeps less of it from then on: the collector would keep as much
// again as is in use, for hours, as who only waits makes no garbage.
func thrift() {
	ballast.Store(nil)
	collect(thrifty)
	debug.FreeOSMemory()
}

// collect sets the percentage. Who has set another by GOGC is obeyed.
func collect(percent int) {
	if was := debug.SetGCPercent(percent); was != usual && was != lavishly && was != thrifty {
		debug.SetGCPercent(was)
	}
}
