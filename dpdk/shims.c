/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Bodies for shims.h: each is the call of one inline function. Bursts and bulk operations cost
 * one call per burst; nothing here is meant to be called per packet on the fast path except
 * ravelin_mbuf_alloc and ravelin_mbuf_free, for packets that a node originates or drops singly.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* fopencookie */
#endif
#include "shims.h"

#include <sys/types.h>

#include <rte_thash.h>

int ravelin_errno(void)
{
	return rte_errno;
}

uint32_t ravelin_lcore_id(void)
{
	return rte_lcore_id();
}

uint16_t ravelin_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, bufs, n);
}

uint16_t ravelin_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, bufs, n);
}

struct rte_mbuf *ravelin_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

bool ravelin_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **bufs, uint32_t n)
{
	return rte_pktmbuf_alloc_bulk(pool, bufs, n) == 0;
}

void ravelin_mbuf_free(struct rte_mbuf *buf)
{
	rte_pktmbuf_free(buf);
}

uint32_t ravelin_softrss(const uint32_t *tuple, uint32_t dwords, const uint8_t *key)
{
	/* rte_softrss only reads the tuple; its prototype lacks the const. */
	return rte_softrss((uint32_t *)(uintptr_t)tuple, dwords, key);
}

int ravelin_link(uint16_t port, uint32_t *speed_mbps, bool *full_duplex, bool *up)
{
	struct rte_eth_link link = {0};
	int rc = rte_eth_link_get_nowait(port, &link);

	*speed_mbps = link.link_speed;
	*full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	*up = link.link_status == RTE_ETH_LINK_UP;
	return rc;
}

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	/* A function pointer does not fit a void pointer in ISO C: the cookie points to it. */
	const ravelin_log_fn *callback = cookie;
	int level = rte_log_cur_msg_loglevel();

	(*callback)(level < 0 ? 0 : (uint32_t)level, text, len);
	return (ssize_t)len;
}

FILE *ravelin_log_stream(ravelin_log_fn callback)
{
	static ravelin_log_fn kept;
	cookie_io_functions_t functions = {.write = log_write};

	kept = callback;
	return fopencookie(&kept, "w", functions);
}
