// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause

/* loopback.c: published ports at [::1].
 *
 * A packet to ::1 never leaves lo, and its source ::1 can't be routed, so NAT can't bring it to a workload. These programs
 * change the address in the system call instead: connect() and sendmsg() to [::1]:PORT go to the workload, before the
 * kernel chooses a route and with it a source address. recvmsg() and getpeername() then say [::1]:PORT again, so that the
 * application never sees the difference.
 *
 * They run for every socket below a cgroup, whatever its network namespace: those of others are left alone. So is
 * ::ffff:127.0.0.1, which is IPv4 and a matter of nft. */

#include "kernel.h"

/* ours is the network namespace of the forwards (SO_NETNS_COOKIE). */
volatile const __u64 ours;

struct forward_key {
	__be16 port;
	__u16 proto;
};

struct forward_to {
	__be32 addr[4];
	__be16 port;
	__u16 zero;
};

/* peer_key is who a socket really talks to. Cookies are never used twice. */
struct peer_key {
	__u64 socket;
	__be32 addr[4];
	__u32 port; /* as user_port */
	__u32 zero;
};

struct {
	map_int(type, BPF_MAP_TYPE_HASH);
	map_int(max_entries, 2 * 65536);
	map_int(map_flags, BPF_F_NO_PREALLOC);
	map_type(key, struct forward_key);
	map_type(value, struct forward_to);
} forwards SEC(".maps");

/* peers has the port that the application asked for. Only UDP and getpeername() read it; when more sockets than this are
 * in use, those idle longest see the workload's address. */
struct {
	map_int(type, BPF_MAP_TYPE_LRU_HASH);
	map_int(max_entries, 16384);
	map_type(key, struct peer_key);
	map_type(value, __u32);
} peers SEC(".maps");

enum { PASS = 1 }; /* the only verdict: nothing is ever refused */

/* is_loopback takes :: too where the kernel would make ::1 of it. */
static inline int is_loopback(const struct bpf_sock_addr *ctx)
{
	return !ctx->user_ip6[0] && !ctx->user_ip6[1] && !ctx->user_ip6[2] &&
	       (ctx->user_ip6[3] == htonl(1) || !ctx->user_ip6[3]);
}

static inline struct peer_key peer(struct bpf_sock_addr *ctx)
{
	struct peer_key key = {
		.socket = bpf_get_socket_cookie(ctx),
		.addr = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] },
		.port = ctx->user_port,
	};
	return key;
}

/* remember is called for every datagram, so it writes only what is new. */
static inline void remember(struct bpf_sock_addr *ctx, __u32 asked)
{
	struct peer_key key = peer(ctx);
	__u32 *known = bpf_map_lookup_elem(&peers, &key);

	if (!known || *known != asked)
		bpf_map_update_elem(&peers, &key, &asked, 0);
}

static inline int to_workload(struct bpf_sock_addr *ctx)
{
	__u32 asked = ctx->user_port;
	struct forward_key key = { .port = asked, .proto = ctx->protocol };
	struct forward_to *to;

	to = bpf_map_lookup_elem(&forwards, &key);
	if (!to)
		return PASS;
	ctx->user_ip6[0] = to->addr[0];
	ctx->user_ip6[1] = to->addr[1];
	ctx->user_ip6[2] = to->addr[2];
	ctx->user_ip6[3] = to->addr[3];
	ctx->user_port = to->port;
	remember(ctx, asked);
	return PASS;
}

static inline int to_loopback(struct bpf_sock_addr *ctx)
{
	struct peer_key key;
	__u32 *asked;

	if (bpf_get_netns_cookie(ctx) != ours)
		return PASS;
	key = peer(ctx);
	asked = bpf_map_lookup_elem(&peers, &key);
	if (!asked)
		return PASS;
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = 0;
	ctx->user_ip6[3] = htonl(1);
	ctx->user_port = *asked;
	return PASS;
}

/* A socket bound to ::1 or to a link can't reach the workload: it goes where it would have gone without us. */

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!is_loopback(ctx) || bpf_get_netns_cookie(ctx) != ours)
		return PASS;
	if (!sk || sk->bound_dev_if || sk->src_ip6[3] == htonl(1) && !sk->src_ip6[0])
		return PASS;
	return to_workload(ctx);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!is_loopback(ctx) || bpf_get_netns_cookie(ctx) != ours)
		return PASS;
	if (!sk || sk->bound_dev_if || ctx->msg_src_ip6[3] == htonl(1) && !ctx->msg_src_ip6[0])
		return PASS;
	return to_workload(ctx);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return to_loopback(ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return to_loopback(ctx);
}

char license_[] SEC("license") = "Dual BSD/GPL";
