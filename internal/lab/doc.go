// Package lab runs several real flatnetd on one machine, each in a made-up host: a process that holds network, mount,
// process, host name and cgroup namespaces, with a /run, /etc and /var/lib of its own. The hosts are joined by a bridge,
// or by a router between two of them, that is a machine of its own. Nothing of this machine's network is touched; not even
// the cables begin in it.
//
//	l, err := lab.Up(ctx, lab.Spec{Hosts: lab.Hosts(2), Backend: "vxlan"})
//	defer l.Down(ctx)
//	l.Host("h1").Kill9()
//	out, err := l.Workload("web1").Exec(ctx, "ping", "-c1", "db2")
//	commands, err := l.Break(ctx, "mtu", "h1")
//
// A lab is found again by its directory, DefaultDir/NAME: `flatnet lab` is this package, a process for each command. What
// keeps a lab alive is only its processes, one for each host, which is the first of its process namespace: when that one
// is killed the kernel ends the others, and with them the namespaces, links and mounts. So Down has little to do, looks
// whether anything is left that carries the lab's mark, and says so.
//
// It is not a sandbox: the hosts see this machine's file systems, and root in them is root.
package lab
