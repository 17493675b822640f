// Package api is what flatnetd says on its unix socket: HTTP with JSON under /v1, and a typed client of it. It is the only
// public package. Values travel as people write them (strings in CIDR, dotted or colon form); the daemon validates
// every field and answers an Error that lists the problems, each with a stable code.
//
// The calls, all relative to /v1; those that change something take ?dryRun=true and then only tell what they would do:
//
//	GET    /version                       Version
//	GET    /status                        Status
//	GET    /networks                      []Network
//	POST   /networks                      Manifest of kind Network → Changed[Network]
//	GET    /networks/NAME                 Network
//	POST   /networks/NAME/edit            NetworkEdit → Changed[Network]   ?renumber=true moves addresses along, ?force=true drops forwards
//	DELETE /networks/NAME                 Changed[Network]      ?force=true also detaches its endpoints
//	POST   /networks/NAME/start|stop      Changed[Network]
//	POST   /networks/NAME/autostart       Autostart → Changed[Network]
//	GET    /workloads                     []Workload
//	POST   /workloads                     WorkloadSpec → Changed[Workload]
//	GET    /workloads/NAME                Workload
//	DELETE /workloads/NAME                Changed[Workload]     ?force=true also ends its processes
//	POST   /workloads/NAME/endpoints      EndpointSpec → Changed[Workload]     one more network, while it runs
//	DELETE /workloads/NAME/endpoints/NET  Changed[Workload]     ?force=true also takes the ports published by it
//	POST   /workloads/NAME/process        Process → Workload    the command started in it, or ended
//	POST   /workloads/NAME/stop           Stop → Workload       TERM, then KILL after the time-out
//	GET    /forwards                      []Forward
//	POST   /forwards                      []ForwardSpec → Changed[[]Forward]   all or none
//	DELETE /forwards                      []string (names) → Changed[[]Forward]
//	POST   /apply                         []Manifest → Changed[[]Manifest]
//	GET    /manifests                     []Manifest            what is stored, as apply takes it
//	GET    /plan                          []Step                what the kernel lacks or has too much; empty when all is well
//	POST   /repair                        []Step                carries that out now
//	GET    /cni/status                    CNIStatus             whether CNI's ADD would be served; on certain networks with ?network=NAME, repeated
//	GET    /doctor                        []Finding
//	POST   /doctor/fix                    Fix → []Step
//	POST   /uninstall                     []Step                removes all that flatnet made from this host
//	GET    /cluster                       Membership            this host's place in a cluster; FN2133 when it is in none
//	POST   /cluster/init                  Init → Membership     begins a cluster; ?force=true in spite of what checks find, as for join
//	POST   /cluster/join                  Join → Membership
//	POST   /cluster/leave                 Membership            ?force=true also when the cluster cannot be told
//	GET    /hosts                         []Host                the nodes of the cluster
//	DELETE /hosts/HOST                    Host                  by name or ID, on a server; ?force=true also one that is alive
//	GET    /tokens                        []Token               what lets hosts join; on a server, as the next two
//	POST   /tokens                        TokenSpec → Token
//	DELETE /tokens/NAME                   Token
//	GET    /show/bridges                  []HostBridge          what the host has, flatnet's and others', with whose it is
//	GET    /show/links|routes|neigh       []Link, []Route, []Neighbour   of the host; of a workload's namespace with ?workload=NAME
//	GET    /show/nft                      []NFTObject           flatnet's own tables
//	GET    /events                        stream of Event, one JSON value a line: those remembered (?since=RFC3339 cuts
//	                                      the older ones off), then what happens until the caller leaves; not with ?follow=false
//
// Beside them, without the prefix: GET /metrics (Prometheus text) and GET /readyz.
package api
