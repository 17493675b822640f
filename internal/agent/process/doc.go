// Package process knows the commands that run in workloads: it tells one apart from another that got its number later, notices
// its end although it is no child of ours, and ends it. It starts none: that is the caller's, so that commands belong to who
// started them and outlive the daemon.
//
//	w, err := process.NewWatcher()
//	go w.Run(ctx, func(name string, code int) { … })
//	start, err := process.Start(812)
//	err = w.Add("web", 812, start)
package process
