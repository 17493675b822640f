// probe is the traffic of the demo, for machines that have no tools for it: internal/lab/probe, by the name it is called
// with: serve, fetch or ping. It is not part of flatnet and not installed.
package main

import (
	"os"
	"path/filepath"

	"github.com/flatnet/flatnet/internal/lab/probe"
)

func main() { os.Exit(probe.Main(filepath.Base(os.Args[0]), os.Args[1:])) }
