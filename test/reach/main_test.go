package reach

import (
	"os"
	"testing"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/reach/prober"
)

func TestMain(m *testing.M) {
	if prober.Serving() {
		os.Exit(prober.Serve())
	}
	code := kerneltest.Main(m)
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}
