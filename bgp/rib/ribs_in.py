"""All Adj-RIBs-In of one peer, by family: what happens to each of them when a session begins, ends, or is configured.

Promises: pure; what comes out is what the Loc-RIBs take or lose. Does not know: sessions, other peers.
"""

from __future__ import annotations

from collections.abc import Mapping

from bgp.events import Output, ReapplyImportPolicy
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.rib.adj_rib_in import AdjRibIn
from bgp.rib.graceful_restart import Preserved, Retention
from bgp.wire.families import Address, Family


class RibsIn(dict[Family, AdjRibIn]):
    """Family -> its Adj-RIB-In, of every family that is configured."""

    def __init__(self, config: PeerConfig, us: SpeakerConfig) -> None:
        super().__init__({family: AdjRibIn(family, config, us) for family in sorted(config.families)})
        self._us = us

    def configure(self, config: PeerConfig) -> list[Output]:
        """Decide anew on all that the peer announced; it need not announce anything again."""
        outputs: list[Output] = []
        for family in self.keys() - config.families:
            outputs += self.pop(family).clear()
        for family in sorted(config.families):
            if (rib := self.get(family)) is not None:
                rib.configure(config)
            else:
                self[family] = AdjRibIn(family, config, self._us)
        return outputs + [ReapplyImportPolicy(family) for family in self]

    def session_established(
        self, local: Address, asn: int, now: float, kept: Mapping[Family, Preserved]
    ) -> list[Output]:
        """A session is up; `kept`: the F bits of the families negotiated (RFC 4724 section 3, RFC 9494 section 3.1)."""
        return [
            output
            for family, rib in self.items()
            for output in rib.session_established(local, asn, now, kept.get(family, Preserved()))
        ]

    def session_lost(self, retained: Mapping[Family, Retention], now: float) -> list[Output]:
        """The session ended: the paths of `retained` families stay as stale ones for a while, the others go."""
        outputs: list[Output] = []
        for family, rib in self.items():
            stays = retained.get(family)
            outputs += rib.session_lost(stays, now) if stays is not None else rib.clear()
        return outputs

    def expire(self, now: float) -> list[Output]:
        """Withdraw what the peer took too long to advertise again."""
        return [output for rib in self.values() for output in rib.expire(now)]

    def withdraw_all(self) -> list[Output]:
        """Withdraw everything."""
        return [output for rib in self.values() for output in rib.clear()]
