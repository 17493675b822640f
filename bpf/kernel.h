/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */

/* kernel.h: the few parts of the kernel's BPF interface that our programs use, so that compiling them needs clang and no
 * header of the machine. Layouts and numbers are those of include/uapi/linux/bpf.h, which never change. */

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef __u16 __be16; /* network byte order */
typedef __u32 __be32;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define htonl(n) __builtin_bswap32(n)
#else
#define htonl(n) (n)
#endif

#define SEC(name) __attribute__((section(name), used))
#define inline inline __attribute__((always_inline))

/* Members of an anonymous struct in section .maps describe a map by their types. */
#define map_int(name, n) int (*name)[n]
#define map_type(name, t) t *name

enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_LRU_HASH = 9 };
enum { BPF_F_NO_PREALLOC = 1 };

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family, type, protocol, mark, priority;
	__be32 src_ip4;
	__be32 src_ip6[4]; /* the address that the socket is bound to */
};

/* What the cgroup hooks of connect, sendmsg, recvmsg and getpeername get; user_ip6 and user_port may be written. */
struct bpf_sock_addr {
	__u32 user_family;
	__be32 user_ip4;
	__be32 user_ip6[4];
	__u32 user_port; /* a __be16 in a wider field */
	__u32 family, type, protocol;
	__be32 msg_src_ip4;
	__be32 msg_src_ip6[4]; /* sendmsg: the source address, :: when routing is to choose it */
	struct bpf_sock *sk __attribute__((aligned(8)));
};

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static __u64 (*bpf_get_socket_cookie)(void *ctx) = (void *)46;
static __u64 (*bpf_get_netns_cookie)(void *ctx) = (void *)122;
