/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What crates/dpdk-sys binds of DPDK. bindgen reads this header; shims.c gives bodies to the
 * functions declared here. Three kinds of things cannot be bound directly and so have a name of
 * ours:
 *
 *  - inline functions (bursts, mbuf allocation): they have no symbol in the libraries;
 *  - macros of 64 bits or with casts: bindgen only evaluates plain integers;
 *  - fields whose place in C differs between DPDK releases (anonymous unions, bit fields):
 *    their offsets are constants here, computed by the C compiler for the release at hand.
 */
#ifndef RAVELIN_DPDK_SHIMS_H
#define RAVELIN_DPDK_SHIMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* The fields of struct rte_mbuf that Rust reads and writes itself. */
enum ravelin_mbuf_offset {
	RAVELIN_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	RAVELIN_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	RAVELIN_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	RAVELIN_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	RAVELIN_MBUF_PORT = offsetof(struct rte_mbuf, port),
	RAVELIN_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	RAVELIN_MBUF_PACKET_TYPE = offsetof(struct rte_mbuf, packet_type),
	RAVELIN_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	RAVELIN_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	RAVELIN_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	RAVELIN_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash.rss),
	RAVELIN_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	RAVELIN_MBUF_POOL = offsetof(struct rte_mbuf, pool),
	RAVELIN_MBUF_SIZE = sizeof(struct rte_mbuf),
};

/* struct rte_mbuf: ol_flags. */
static const uint64_t RAVELIN_MBUF_F_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t RAVELIN_MBUF_F_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t RAVELIN_MBUF_F_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t RAVELIN_MBUF_F_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t RAVELIN_MBUF_F_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t RAVELIN_MBUF_F_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t RAVELIN_MBUF_F_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;

/* struct rte_eth_rxmode: offloads. */
static const uint64_t RAVELIN_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t RAVELIN_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t RAVELIN_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t RAVELIN_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t RAVELIN_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;

/* struct rte_eth_rss_conf: rss_hf. */
static const uint64_t RAVELIN_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t RAVELIN_RSS_IPV4_UDP = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t RAVELIN_RSS_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint64_t RAVELIN_RSS_IPV6_UDP = RTE_ETH_RSS_NONFRAG_IPV6_UDP;

/* Sizes and limits. */
enum ravelin_limit {
	RAVELIN_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM,
	RAVELIN_MBUF_DEFAULT_DATAROOM = RTE_MBUF_DEFAULT_DATAROOM,
	RAVELIN_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
	RAVELIN_MEMPOOL_NAME_MAX = RTE_MEMPOOL_NAMESIZE - 1,
	RAVELIN_MAX_LCORE = RTE_MAX_LCORE,
	RAVELIN_MAX_PORTS = RTE_MAX_ETHPORTS,
	RAVELIN_RETA_GROUP = RTE_ETH_RETA_GROUP_SIZE,
};

/* SOCKET_ID_ANY and LCORE_ID_ANY carry casts. */
static const int RAVELIN_SOCKET_ID_ANY = -1;
static const uint32_t RAVELIN_LCORE_ID_ANY = UINT32_MAX;

/* The calling thread's rte_errno, which is a thread-local variable behind a macro. */
int ravelin_errno(void);

/* The calling thread's lcore id; LCORE_ID_ANY for a thread that EAL does not know. */
uint32_t ravelin_lcore_id(void);

/* rte_eth_rx_burst: fills at most n pointers, returns how many. */
uint16_t ravelin_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t n);

/* rte_eth_tx_burst: takes a prefix of n pointers, returns its length. */
uint16_t ravelin_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t n);

/* rte_pktmbuf_alloc: one reset mbuf, or NULL when the pool is empty. */
struct rte_mbuf *ravelin_mbuf_alloc(struct rte_mempool *pool);

/* rte_pktmbuf_alloc_bulk: all n reset mbufs and true, or none and false. */
bool ravelin_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **bufs, uint32_t n);

/* rte_pktmbuf_free of one mbuf and all segments behind it. */
void ravelin_mbuf_free(struct rte_mbuf *buf);

/* rte_softrss over dwords in host order; key has at least 4 * (dwords + 1) bytes, aligned to 4. */
uint32_t ravelin_softrss(const uint32_t *tuple, uint32_t dwords, const uint8_t *key);

/* rte_eth_link_get_nowait, whose struct has bit fields and changed shape. 0 or -errno. */
int ravelin_link(uint16_t port, uint32_t *speed_mbps, bool *full_duplex, bool *up);

/* A FILE that hands every write to the callback, for rte_openlog_stream; NULL on failure. The
 * callback gets the level (1 emergency .. 8 debug) of the message being logged. */
typedef void (*ravelin_log_fn)(uint32_t level, const char *text, size_t len);
FILE *ravelin_log_stream(ravelin_log_fn callback);

#endif
