package main

// flagOfDocker says what stands here for a flag of docker run or docker network connect; nothing when none is known.
func flagOfDocker(name string) string {
	const (
		environment = "the command has its caller's environment: flatnet run -- env NAME=VALUE COMMAND"
		files       = "there is no image: the command sees this machine's files"
		names       = "names of other workloads come later; a workload's address stays the same: flatnet ep ls"
		directory   = "the command runs in the caller's directory: cd there first"
		rights      = "the command has its caller's rights"
	)
	return map[string]string{
		"P": "name the ports: -p 8080:80", "publish-all": "name the ports: -p 8080:80", "expose": "not needed: a network's workloads reach each other's ports",
		"v": files, "volume": files, "mount": files, "tmpfs": files, "volumes-from": files, "read-only": files,
		"e": environment, "env": environment, "env-file": environment,
		"dns": "of the network, not of one workload: flatnet net set NETWORK --dns 9.9.9.9", "dns-search": "there is none; resolvers are the network's: flatnet net set NETWORK --dns 9.9.9.9",
		"link": names, "network-alias": names, "net-alias": names, "alias": names, "add-host": names,
		"net": "--network NETWORK", "hostname": "the command has this machine's host name; its workload is named with --name", "h": "the command has this machine's host name; its workload is named with --name",
		"restart": "nothing restarts a command; a service of systemd can run flatnet run", "u": "flatnet run -- sudo -u USER COMMAND", "user": "flatnet run -- sudo -u USER COMMAND",
		"w": directory, "workdir": directory, "privileged": rights, "cap-add": rights, "cap-drop": rights, "security-opt": rights,
		"entrypoint": "the command is what stands behind --: flatnet run -- COMMAND", "pull": files, "platform": files,
	}[name]
}
