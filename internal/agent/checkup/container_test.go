package checkup

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
)

// One reason is told once, with all whom it concerns, and what to do; containers that run are told of by the network that they are cut off on.
func TestContainerFindings(t *testing.T) {
	off := api.Problem{Code: "FN2113", Reason: `network "pods" is not started`, Fix: "start it first", Example: "flatnet net start pods"}
	full := api.Problem{Code: "FN2109", Reason: "10.8.0.0/30 has no free address", Fix: "a larger subnet"}
	gone := api.Problem{Code: "FN1004", Reason: `there is no network "lab"`, Fix: "networks: pods"}
	got := ""
	for _, f := range ContainerFindings(Containers{
		Configs: []Config{{Name: "/etc/cni/net.d/10-flatnet.conflist", Refused: []api.Problem{off, full}}, {Name: "/etc/cni/net.d/20-well.conflist"}, {Name: "/etc/cni/net.d/30-lab.conflist", Refused: []api.Problem{gone}}, {Name: "podman", Refused: []api.Problem{off}}},
		Cut:     []Container{{"web", "pods"}, {"job", "lab"}, {"db", "pods"}},
	}) {
		got += fmt.Sprintf("%s %s: %s | %s | %s\n", f.Level, f.Code, f.What, strings.ReplaceAll(f.Owner, "\n", ", "), f.Fix)
	}
	want := `warning FN5430: containers that start get no network: network "pods" is not started | /etc/cni/net.d/10-flatnet.conflist, podman | start it first: flatnet net start pods
warning FN5430: containers that start get no network: 10.8.0.0/30 has no free address | /etc/cni/net.d/10-flatnet.conflist | a larger subnet
warning FN5430: containers that start get no network: there is no network "lab" | /etc/cni/net.d/30-lab.conflist | make it: flatnet net create NAME; or name another in the configuration; networks: pods
warning FN5430: containers are cut off: network "lab" is not started | job | flatnet net start lab
warning FN5430: containers are cut off: network "pods" is not started | db, web | flatnet net start pods
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if all := ContainerFindings(Containers{Configs: []Config{{Name: "a"}}}); len(all) > 0 {
		t.Errorf("all is well: %v", all)
	}
}
