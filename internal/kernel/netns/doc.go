// Package netns makes, enters and removes network namespaces that are kept by a file, as ip-netns(8) does. It never forks:
// it moves a thread of this process into the namespace and back.
//
// An Owned remembers which of them we made, across restarts, so that a namespace of somebody else is never removed.
//
//	err := netns.Create("/run/netns/web1")
//	err = netns.Do("/run/netns/web1", func() error { … })
package netns
