// Package socket is the way in to the daemon: a unix socket on which HTTP requests are let in by who sends them, read
// strictly, and answered in JSON with every problem spelled out. It knows nothing of networks.
//
//	l, err := socket.Listen("/run/flatnet/flatnet.sock", "flatnet")
//	srv := socket.Server{Handler: mux, Access: socket.Access{Group: 990}, Log: log}
//	err = srv.Serve(ctx, l)
package socket
