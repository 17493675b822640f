package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/lab"
)

const labFile = `name: bench
backend: host-gw
hosts:
- name: left
  workloads: [a, b]
`

// A flag beats the file, the file the environment; what cannot be is refused with its place and what would be taken.
func TestLabsAreAskedFor(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"lab.yaml":   labFile,
		"two.yaml":   labFile + "---\nname: other\n",
		"empty.yaml": "# nothing\n",
		"wrong.yaml": "name: bench\nbakend: vxlan\nhosts:\n- name: left\n  wrkloads: [a, b]\n  lan: one\n",
		"list.yaml":  "hosts: 3\n",
		"text.yaml":  "hosts: [\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ args, env, want string }{
		{"", "", "name= backend= hosts=0"},
		{"", "FLATNET_LAB=env", "name=env backend= hosts=0"},
		{"-file lab.yaml", "FLATNET_LAB=env", "name=bench backend=host-gw hosts=1"},
		{"-file lab.yaml -name flag -backend vxlan", "FLATNET_LAB=env", "name=flag backend=vxlan hosts=1"},
		{"-file empty.yaml -hosts 5", "FLATNET_LAB=env", "name=env backend= hosts=5"},
		{"-hosts 0", "", `error FN6001: 0 cannot be: a lab has from 1 to 100 hosts
  at --hosts
  more: flatnet help FN6001                                                        (exit 2)`},
		{"-hosts -1", "", `error FN6001: -1 cannot be: a lab has from 1 to 100 hosts
  at --hosts
  more: flatnet help FN6001                                                        (exit 2)`},
		{"-file lab.yaml -hosts 2", "", `error FN6001: 2 cannot be: lab.yaml lists the hosts
  at --hosts
  more: flatnet help FN6001                                                        (exit 2)`},
		{"-file wrong.yaml", "", `error FN1002: there is no field "bakend" here
  at wrong.yaml:2: bakend
  did you mean "backend"? fields here: backend, hosts, init, name, routedUnderlay
  more: flatnet help FN1002
error FN1002: there is no field "wrkloads" here
  at wrong.yaml:5: hosts[0].wrkloads
  did you mean "workloads"? fields here: lan, name, workloads
  more: flatnet help FN1002
error FN1001: want a whole number, not "one"
  at wrong.yaml:6: hosts[0].lan
  more: flatnet help FN1001                                                        (exit 2)`},
		{"-file list.yaml", "", `error FN1001: want a list, not 3
  at list.yaml:1: hosts
  more: flatnet help FN1001                                                        (exit 2)`},
		{"-file text.yaml", "", `error FN1001: not YAML: did not find expected node content
  at text.yaml:1
  more: flatnet help FN1001                                                        (exit 2)`},
		{"-file two.yaml", "", `error FN1001: a second document, and one is read
  at two.yaml:6
  more: flatnet help FN1001                                                        (exit 2)`},
		{"-file none.yaml", "", `error FN1001: no such file or directory
  at none.yaml
  more: flatnet help FN1001                                                        (exit 2)`},
	} {
		lc := labCommand{stdout: io.Discard, stderr: io.Discard, flags: flag.NewFlagSet("flatnet lab up", flag.ContinueOnError)}
		spec, err := lc.spec(strings.Fields(c.args), env(c.env))
		got := lab.Text(err)
		if err == nil {
			got = fmt.Sprintf("name=%s backend=%s hosts=%d", spec.Name, spec.Backend, len(spec.Hosts))
		}
		if got != c.want {
			t.Errorf("flatnet lab up %s: got\n%s\nwant\n%s", c.args, got, c.want)
		}
	}
}
