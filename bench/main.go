// bench measures what flatnet costs on this machine, in namespaces of its own.
package main

func main() {}
