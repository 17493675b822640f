// Package reach has no code but tests: they read the tables of docs/reference/reachability.md and try every cell on a
// real host, which is a network namespace with two NICs and a flatnetd of its own.
package reach
