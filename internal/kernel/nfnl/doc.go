// Package nfnl speaks nfnetlink: it writes and reads messages with their attributes and carries them over one socket, as a
// dump, as a batch (one nf_tables transaction) or as notifications. It knows the wire, not what nf_tables means by it.
//
//	b := nfnl.NewBatch(0)
//	b.Message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, unix.NFPROTO_INET)
//	b.String(unix.NFTA_TABLE_NAME, "flatnet")
//	failures, err := sock.Send(ctx, b)
package nfnl
