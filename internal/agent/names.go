package agent

import (
	"fmt"
	"math/rand/v2"
)

// A made-up name is one of each; 40 × 40 of them, then with a number.
var (
	adjectives = [...]string{"able", "amber", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "cosy", "daring", "deft", "eager", "early",
		"fair", "fast", "fine", "fond", "gentle", "glad", "grand", "happy", "honest", "jolly", "keen", "kind", "light", "lively", "lucky", "mellow",
		"merry", "neat", "noble", "patient", "proud", "quick", "quiet", "sunny", "swift", "warm"}
	nouns = [...]string{"alder", "badger", "beaver", "birch", "brook", "cedar", "comet", "crane", "dune", "eagle", "falcon", "fern", "finch", "fjord",
		"glade", "harbor", "hazel", "heron", "island", "lark", "linden", "lynx", "maple", "marten", "meadow", "moose", "otter", "owl", "pebble", "pine",
		"raven", "reed", "river", "robin", "sparrow", "spruce", "stork", "thistle", "walnut", "willow"}
)

// makeName makes up a name that is not taken.
func makeName(taken func(string) bool) string {
	for try := 0; ; try++ {
		name := adjectives[rand.IntN(len(adjectives))] + "-" + nouns[rand.IntN(len(nouns))]
		if try >= 20 {
			name = fmt.Sprintf("%s-%d", name, rand.IntN(1_000_000))
		}
		if !taken(name) {
			return name
		}
	}
}
