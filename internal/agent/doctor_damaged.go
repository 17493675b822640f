package agent

import (
	"path/filepath"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel"
)

// damagedFindings are files in the run directory that were moved aside because they could not be read. They stay for a person
// to look at, and so does the finding.
func damagedFindings(runDir string) []api.Finding {
	files, _ := filepath.Glob(filepath.Join(runDir, "*"+kernel.Damaged))
	var list []api.Finding
	for _, file := range files {
		list = append(list, api.Finding{Code: FindingDamaged, Level: levelWarning,
			What: file + " could not be read: what the host's settings were before flatnet changed them is not known, so that they stay as they are when flatnet leaves",
			Fix:  "see in it, if you can, what they were; then rm " + file})
	}
	return list
}
