"""What one neighbour tells, of all families: who said it, whether it is believed, and what outlives a session.

Promises: pure; answers say what the Loc-RIBs must take or lose. Does not know: connections, when to call.
RFC 4271 section 9.1, RFC 4724 section 4.2, RFC 7313 section 4, RFC 7911 section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bgp.events import Output, ReapplyImportPolicy, UpdateFaults
from bgp.path import Path, Source
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.policy.policy import CompiledPolicy, compile_policies
from bgp.rib.adj_rib_in import AdjRibIn
from bgp.rib.ingress_checks import apply_graceful_shutdown, reject_reason
from bgp.session.session import Session
from bgp.wire.attributes import PathAttributes
from bgp.wire.capabilities import GracefulRestart
from bgp.wire.families import Address, Family, number_of
from bgp.wire.messages import Open, Update
from bgp.wire.nlri import Nlri, by_path_id


class AdjRibsIn:
    """One neighbour's; its sessions come and go."""

    def __init__(self, config: PeerConfig, speaker: SpeakerConfig) -> None:
        self._config = config
        self._speaker = speaker
        self._local: Address | None = None
        """Our address on the last session."""
        self.intakes = {family: AdjRibIn(family, judge) for family, judge in self._judges().items()}

    @property
    def internal(self) -> bool:
        """Whether the neighbour is of our AS."""
        return self._config.asn == (self._config.local_as or self._speaker.asn)

    @property
    def has_stale(self) -> bool:
        """Whether some paths are kept through its restart."""
        return any(intake.has_stale for intake in self.intakes.values())

    @property
    def deadlines(self) -> list[float | None]:
        """When `expire` is due."""
        return [intake.deadline for intake in self.intakes.values()]

    # -- what it says -------------------------------------------------------------------------------------------------

    def learn(self, session: Session, peer: Open, update: Update) -> list[Output]:
        """An UPDATE of an established session."""
        intake = self.intakes[update.family]
        if update.is_end_of_rib and not update.faults:
            return intake.end_of_rib()
        outputs: list[Output] = [UpdateFaults(update.faults)] if update.faults else []
        outputs += intake.withdraw(update.withdrawn)
        if not update.announced or update.attributes is None:
            return outputs
        attributes = apply_graceful_shutdown(update.attributes)
        refused, source = self._refusal(attributes), self._source(session, peer)
        for path_id, keys in by_path_id(update.announced):
            named = source if path_id is None else replace(source, path_id=path_id)
            outputs += intake.announce(keys, Path(attributes, named), refused)
        if refused:
            outputs.append(UpdateFaults((refused,)))
        return outputs

    def _source(self, session: Session, peer: Open) -> Source:
        config = self._config
        return Source(
            number_of(config.address),
            config.address,
            peer.router_id,
            session.internal,
            config.route_reflector_client,
        )

    # -- what outlives a session --------------------------------------------------------------------------------------

    def returned(self, session: Session, restart: GracefulRestart | None, now: float) -> list[Output]:
        """A session is established."""
        self._local = session.local.address
        kept = restart.forwarding_preserved & session.context.families if restart is not None else frozenset()
        outputs: list[Output] = []
        for family, intake in self.intakes.items():
            outputs += intake.session_established(now, kept=family in kept)
        return outputs

    def lost(self, session: Session, restart: GracefulRestart | None, now: float) -> list[Output]:
        """It is over; `restart`: what its paths may be kept by."""
        outputs: list[Output] = []
        for family, intake in self.intakes.items():
            if restart is not None and family in restart.families & session.context.families:
                outputs += intake.session_lost(restart.restart_seconds, now)
            else:
                outputs += intake.clear()
        return outputs

    def expire(self, now: float) -> list[Output]:
        """Let go what it took too long with."""
        return [output for intake in self.intakes.values() for output in intake.expire(now)]

    def forget(self) -> list[Output]:
        """Let go everything."""
        return [output for intake in self.intakes.values() for output in intake.clear()]

    # -- what we want of it -------------------------------------------------------------------------------------------

    def adopt(self, config: PeerConfig) -> list[Output]:
        """Judge all that it told by another configuration; the neighbour need not repeat anything."""
        before, self._config = self._config, config
        outputs: list[Output] = []
        for family in before.families - config.families:
            outputs += self.intakes.pop(family).clear()
        for family in config.families - before.families:
            self.intakes[family] = AdjRibIn(family)
        return outputs + self.judge_again()

    def judge_again(self) -> list[Output]:
        """The same by the present one."""
        for family, judge in self._judges().items():
            self.intakes[family].policy = judge
        return [ReapplyImportPolicy(family) for family in self.intakes]

    def judge_some(self, family: Family, keys: Iterable[Nlri]) -> list[Output]:
        """A part of what `JudgeAgain` asks for."""
        return self.intakes[family].reapply_policy(keys, self._refusal)

    def _judges(self) -> dict[Family, CompiledPolicy | None]:
        return compile_policies(
            self._config.policy.import_rules, self._config.families, internal=self.internal
        )

    def _refusal(self, attributes: PathAttributes) -> str:
        return reject_reason(attributes, self.internal, self._config, self._speaker, self._local)
