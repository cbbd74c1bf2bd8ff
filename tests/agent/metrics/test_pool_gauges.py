"""The gauges of pools are counted from what a node knows anyway, and only when that changed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from agent.metrics.pool_gauges import PoolGauges, PoolReadings
from ipam.model import Address, NodeName, Pool, Prefix

ME, OTHER = NodeName("me"), NodeName("other")
POOLS = (
    Pool("four", ip_network("10.0.0.0/24"), 26),
    Pool("six", ip_network("fd00::/120"), 122),
    Pool("tiny", ip_network("10.0.1.0/29"), 30),
)


class CountedOwners(dict[Prefix, NodeName]):
    """How often somebody counted."""

    looks = 0

    def items(self):  # type: ignore[no-untyped-def]
        self.looks += 1
        return super().items()


def owners() -> CountedOwners:
    texts = {"10.0.0.0/26": ME, "10.0.0.64/26": OTHER, "fd00::40/122": ME, "172.16.0.0/26": OTHER}
    return CountedOwners({ip_network(text): owner for text, owner in texts.items()})


def addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(map(ip_address, texts))


def test_each_pool_has_its_blocks_and_addresses_and_strangers_count_nowhere() -> None:
    own = addresses("10.0.0.1", "10.0.0.66", "fd00::41", "10.0.1.2", "192.0.2.1")
    assert PoolGauges(ME).readings(POOLS, owners(), own) == (
        PoolReadings("four", size=256, most_blocks=4, blocks=2, own_blocks=1, in_use=2),
        PoolReadings("six", size=256, most_blocks=4, blocks=1, own_blocks=1, in_use=1),
        PoolReadings("tiny", size=8, most_blocks=2, blocks=0, own_blocks=0, in_use=1),
    )


def test_a_second_scrape_of_the_same_facts_counts_nothing() -> None:
    gauges, known, own = PoolGauges(ME), owners(), addresses("10.0.0.1")
    first = gauges.readings(POOLS, known, own)
    assert gauges.readings(POOLS, known, addresses("10.0.0.1")) is first
    assert known.looks == 1
    assert gauges.readings(POOLS, known, addresses("10.0.0.1", "10.0.0.2"))[0].in_use == 2
    assert gauges.readings(POOLS, owners(), own) == first
    assert known.looks == 2


def test_what_a_block_holds_is_told_in_addresses() -> None:
    (four, *_) = PoolGauges(ME).readings(POOLS, owners(), ())
    assert four.own_addresses == 64
