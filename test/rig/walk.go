package rig

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Walk begins a random walk of a test: NAME_SEED of the environment repeats one, as far as time allows, and NAME_STEPS is its length.
func Walk(t testing.TB, name string, steps uint64) (r *rand.Rand, length int) {
	t.Helper()
	seed := setting(name+"_SEED", uint64(time.Now().UnixNano())%1_000_000)
	steps = setting(name+"_STEPS", steps)
	t.Logf("%s_SEED=%d %s_STEPS=%d", name, seed, name, steps)
	return rand.New(rand.NewPCG(seed, 0)), int(steps)
}

// setting reads a number from the environment.
func setting(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}
