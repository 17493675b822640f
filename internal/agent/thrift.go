package agent

import "runtime/debug"

// manyParts is how many parts of a picture leave much garbage behind.
const manyParts = 1000

// What the collector leaves in percent of what is in use, before it looks again.
const (
	usual    = 100 // Go's own
	lavishly = 400
	thrifty  = 50
)

// lavish lets the collector rest while thousands of parts are made, of which most stay. thrift ends that.
func lavish() { collect(lavishly) }

// thrift gives memory back that thousands of parts took to be made, and keeps less of it from then on: the collector would keep as much
// again as is in use, for hours, as who only waits makes no garbage.
func thrift() {
	collect(thrifty)
	debug.FreeOSMemory()
}

// collect sets the percentage. Who has set another by GOGC is obeyed.
func collect(percent int) {
	if was := debug.SetGCPercent(percent); was != usual && was != lavishly && was != thrifty {
		debug.SetGCPercent(was)
	}
}
