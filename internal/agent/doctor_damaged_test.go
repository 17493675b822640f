package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDamagedFilesAreFoundUntilRemoved(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"sysctls.json", "sysctls.json.damaged", "ports.json.2.damaged"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := damagedFindings(dir)
	if len(list) != 2 || !strings.Contains(list[1].What, "sysctls.json.damaged") || list[0].Code != FindingDamaged {
		t.Errorf("found %+v", list)
	}
	if more := damagedFindings(t.TempDir()); len(more) > 0 {
		t.Errorf("found in an empty directory %+v", more)
	}
}
