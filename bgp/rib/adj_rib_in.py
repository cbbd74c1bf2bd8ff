"""Adj-RIB-In: what one peer announced of one family, what ingress checks and policy reject of it, and what is stale.

Promises: pure; every path that was announced and not withdrawn is stored as it was before policy, rejected ones too, so
that it can be shown and policy can be applied again without a ROUTE-REFRESH. Answers say what the Loc-RIB takes or
loses. The table belongs to the peer, not to a session: it outlives sessions where graceful restart allows it.
Does not know: connections, other peers, which path is best.
RFC 4271 sections 3.2 and 9.1, RFC 4724 section 4.2, RFC 7313 section 4, RFC 7911 section 3, RFC 9494 section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Address

from bgp.events import Learned, Output, ReapplyImportPolicy, StaleChanged, UpdateFaults, Withdrawn
from bgp.path import Path, Source, long_lived_stale
from bgp.peer_config import PeerConfig, SpeakerConfig
from bgp.policy.block_claims import NO_CLAIMS, BlockClaims
from bgp.policy.policy import Candidate, compiled
from bgp.rib.graceful_restart import Due, Preserved, Retention, Staleness
from bgp.rib.held_paths import HeldPaths
from bgp.wire.attributes import PathAttributes
from bgp.wire.families import Address, Family, in_zone, plain, zone_of
from bgp.wire.iana import WellKnown
from bgp.wire.nlri import LONGEST, Nlri, by_path_id, identified, prefix_of, unpack
from bgp.wire.update import Update

LONGEST_REFRESH_SECONDS = 360.0
"""How long a peer may take to advertise everything again before what is missing goes (RFC 7313 section 4.2)."""


class AdjRibIn:
    """The Adj-RIB-In of one peer and one family."""

    def __init__(self, family: Family, config: PeerConfig, us: SpeakerConfig) -> None:
        self.family = family
        self.pre_policy: dict[Nlri, Path] = {}
        """Every path that the peer announced and did not withdraw, by NLRI (with its path identifier, RFC 7911)."""
        self.held = HeldPaths()
        """What `pre_policy` costs in memory."""
        self.rejected: dict[Nlri, str] = {}
        """NLRI in `pre_policy` that the Loc-RIB does not get -> why: an ingress check, or the name of a policy rule."""
        self.filtered: dict[Nlri, None] = {}
        """Those of `rejected` that the prefix filter, or a claim on a block, refuses."""
        self.faulty: dict[Nlri, None] = {}
        """Those of `rejected` whose attributes were malformed: no policy makes them good (RFC 7606)."""
        self.claims = NO_CLAIMS
        """Whose the blocks are; what is stored keeps its old verdict until `reapply_policy`."""
        self.eor_received = False
        """Whether the peer has sent End-of-RIB since this process began."""
        self.eor_in_session = False
        """Whether the peer has sent End-of-RIB in its present session."""
        self._us = us
        self._local: Address | None = None
        self._peer_as = config.asn
        """The peer's AS; None: any but ours, and there was no session yet."""
        self._identified: dict[Nlri, dict[Nlri, None]] = {}
        """Prefix -> its keys, where they have path identifiers."""
        self.stale = Staleness()
        """Which paths are retained through the peer's restart."""
        self._unrefreshed: set[Nlri] | None = None
        """Between BoRR and EoRR (RFC 7313): what the peer has not advertised again yet; None: there is no refresh."""
        self._refresh_until = 0.0
        self.configure(config)

    def configure(self, config: PeerConfig) -> None:
        """Take on a configuration; what is stored keeps its old verdict until `reapply_policy`."""
        self._config = config
        self._internal = config.is_internal(self._us)
        rules, self._filter = config.policy.import_rules, config.policy.import_filter
        self._policy = compiled(rules, self.family, internal=self._internal)
        self._refusal = self._filter.compiled(self.family)
        self._hop_refusal = self._filter.compiled_next_hops()

    def is_stale(self, prefix: Nlri, path_id: int | None) -> bool:
        """Whether the path to `prefix` with this path identifier is stale."""
        return identified(path_id, prefix) in self.stale

    def is_accepted(self, prefix: Nlri, path_id: int | None) -> bool:
        """Whether the Loc-RIB should have the path to `prefix` with this path identifier."""
        key = identified(path_id, prefix)
        return key not in self.rejected and key in self.pre_policy

    def keys_of(self, prefix: Nlri) -> Iterable[Nlri]:
        """The keys that `prefix` can have in `pre_policy` and `rejected`: alone, and with each path identifier."""
        return (prefix, *self._identified.get(prefix, ()))

    @property
    def deadline(self) -> float | None:
        """When `expire` is due."""
        if self._unrefreshed is None:
            return self.stale.deadline
        return min(self._refresh_until, self.stale.deadline or self._refresh_until)

    # -- UPDATEs ------------------------------------------------------------------------------------------------------

    def receive(self, update: Update, source: Source) -> list[Output]:
        """Take in an UPDATE of this family; `source` names the peer as it is in this session."""
        if update.is_end_of_rib and not update.faults:
            return self._end_of_rib()
        outputs = self._withdraw(update.withdrawn)
        if update.faulty and update.attributes is not None:
            outputs += self._keep_faulty(update.faulty, update.attributes, source, update.why_faulty)
        if update.faults:
            outputs.append(UpdateFaults((*update.faults, *self._named(update.faulty))))
        if not update.announced or update.attributes is None:
            return outputs
        attributes = update.attributes
        if WellKnown.GRACEFUL_SHUTDOWN in attributes.communities and attributes.local_pref != 0:
            attributes = replace(attributes, local_pref=0)  # RFC 8326 section 4.1: the peer is about to leave
        attributes = _on_link(attributes, zone_of(self._config.address))
        reason = self.reject_reason(attributes)
        for path_id, keys in by_path_id(update.announced):
            outputs += self._announce(keys, self.held.shared(attributes, source, path_id), reason)
        if reason:
            outputs.append(UpdateFaults((reason,)))
        return outputs

    def _keep_faulty(
        self, keys: Sequence[Nlri], attributes: PathAttributes, source: Source, why: str
    ) -> list[Output]:
        """What counts as withdrawn (RFC 7606 section 2) is kept to be shown, and refused whatever policy says."""
        outputs: list[Output] = []
        for path_id, some in by_path_id(keys):
            outputs += self._announce(some, self.held.shared(attributes, source, path_id), why)
        self.faulty.update(dict.fromkeys(keys))
        return outputs

    def _named(self, keys: Sequence[Nlri]) -> Iterator[str]:
        """The first of some prefixes that are not used, for the log."""
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            yield f"not used: {unpack(prefix_of(keys[0]), self.family)}{more}"

    def _withdraw(self, keys: Iterable[Nlri]) -> list[Output]:
        paths = self.pre_policy
        popped = [(key, path) for key in keys if (path := paths.pop(key, None)) is not None]
        known = [key for key, _ in popped]
        self.held.remove(path for _, path in popped)
        if self._identified:
            self._unindex(known)
        self._refreshed(known)
        return self._without(known)

    def _announce(self, keys: Sequence[Nlri], path: Path, reason: str) -> list[Output]:
        fresh = self._refreshed(keys)
        paths = dict.fromkeys(keys, path)
        replaced = list(filter(None, map(self.pre_policy.get, paths)))
        self.held.add(path, len(paths))  # first, as it may be one of those
        self.held.remove(replaced)
        self.pre_policy.update(paths)
        if path.source.path_id is not None:
            for key in keys:
                self._identified.setdefault(prefix_of(key), {})[key] = None
        outputs = self._apply_policy(keys, path, reason)
        if fresh and not reason:
            outputs.append(StaleChanged(set(map(prefix_of, fresh)), self.family))
        return outputs

    def _end_of_rib(self) -> list[Output]:
        """RFC 4724 section 4.2: what is still stale was not advertised again, so it goes."""
        self.eor_received = self.eor_in_session = True
        return self._withdraw(self.stale.clear())

    def _unindex(self, keys: Iterable[Nlri]) -> None:
        for key in keys:
            if (known := self._identified.get(prefix_of(key))) is not None:
                known.pop(key, None)
                if not known:
                    del self._identified[prefix_of(key)]

    def _refreshed(self, keys: Sequence[Nlri]) -> set[Nlri]:
        """The peer announced or withdrew these; answers those that were stale until now."""
        if self._unrefreshed:
            self._unrefreshed.difference_update(keys)
        if self.faulty:
            for key in keys:
                self.faulty.pop(key, None)
        return self.stale.refreshed(keys)

    # -- enhanced route refresh (RFC 7313) ----------------------------------------------------------------------------

    # BoRR takes a snapshot of all NLRI, and each UPDATE crosses out what it names. EoRR, or LONGEST_REFRESH_SECONDS,
    # withdraws what is left: the peer no longer has it, and said so only by its absence. A second BoRR takes a new
    # snapshot (section 4.2), since the peer begins again from its first prefix.

    def begin_refresh(self, now: float) -> None:
        """BoRR: the peer begins to advertise everything again."""
        self._unrefreshed, self._refresh_until = set(self.pre_policy), now + LONGEST_REFRESH_SECONDS

    def end_refresh(self) -> list[Output]:
        """EoRR: what the peer did not advertise since BoRR is gone."""
        gone, self._unrefreshed = self._unrefreshed, None
        return self._withdraw(gone) if gone else []

    # -- the life of sessions -----------------------------------------------------------------------------------------

    def session_established(self, local: Address, asn: int, now: float, kept: Preserved) -> list[Output]:
        """A session is up; `local` is our address on it, `kept` the F bits (RFC 4724 section 3, RFC 9494 3.1).

        `asn` is the peer's. Another one than before is another speaker: what that one announced is nobody's.
        """
        kept = kept if self._peer_as in (None, asn) else Preserved()
        self._local, self._peer_as = local, asn
        self.eor_in_session = False
        self.held.begin_session()
        return self._withdraw(self.stale.session_established(now, kept))

    def session_lost(self, stays: Retention, now: float) -> list[Output]:
        """The session ended in a way that lets its paths stay as stale ones for a while."""
        self._unrefreshed = None
        outputs = self._take_due(self.stale.session_lost(self.pre_policy, stays, now))
        prefixes = map(prefix_of, self.pre_policy) if self._identified else self.pre_policy
        return [*outputs, StaleChanged(list(prefixes), self.family)]

    def expire(self, now: float) -> list[Output]:
        """Withdraw what the peer took too long to advertise again."""
        outputs = self._take_due(self.stale.expired(now))
        if self._unrefreshed is not None and now >= self._refresh_until:
            outputs += self.end_refresh()
        return outputs

    def _take_due(self, due: Due) -> list[Output]:
        """What is long-lived stale from now on is marked so, but goes at once if it says NO_LLGR (RFC 9494 4.2).

        The mark is a community: the decision sees it, and so do those to whom the path is advertised.
        """
        unwilling: list[Nlri] = []
        marked = self._by_path(due.long_lived)
        for path, keys in marked:
            if WellKnown.NO_LLGR in path.attributes.communities:
                unwilling += keys
                continue
            self.pre_policy.update(dict.fromkeys(keys, new := long_lived_stale(path)))
            self.held.add(new, len(keys))
            self.held.remove([path] * len(keys))
        self.stale.refreshed(unwilling)
        outputs = self._withdraw((*due.gone, *unwilling))
        return [*outputs, ReapplyImportPolicy(self.family)] if marked else outputs

    def clear(self) -> list[Output]:
        """Withdraw everything."""
        self._unrefreshed = None
        self._identified.clear()
        self.faulty.clear()
        self.stale.clear()
        self.held.clear()
        gone, self.pre_policy = list(self.pre_policy), {}
        return self._without(gone)

    # -- ingress checks and import policy -----------------------------------------------------------------------------

    def take_claims(self, claims: BlockClaims) -> bool:
        """Take on other claims on blocks; whether there is anything to decide anew."""
        was_checked, self.claims = self.checks_claims, claims
        return bool(self.pre_policy) and (was_checked or self.checks_claims)

    def reapply_policy(
        self, keys: Iterable[Nlri], is_touched: Callable[[Nlri], bool] | None = None
    ) -> list[Output]:
        """Decide on these NLRI, or on those of them that are touched, by the present configuration."""
        if is_touched is not None:
            keys = [key for key in keys if is_touched(prefix_of(key))]
        if self.faulty:
            keys = [key for key in keys if key not in self.faulty]
        outputs: list[Output] = []
        for path, some in self._by_path(keys):
            outputs += self._apply_policy(some, path, self.reject_reason(path.attributes))
        return outputs

    def _by_path(self, keys: Iterable[Nlri]) -> Collection[tuple[Path, list[Nlri]]]:
        """Each path of these NLRI, with those that have it."""
        found: dict[int, tuple[Path, list[Nlri]]] = {}  # by identity: paths are shared, and alive meanwhile
        for key in keys:
            if (path := self.pre_policy.get(key)) is not None:
                found.setdefault(id(path), (path, []))[1].append(key)
        return found.values()

    def reject_reason(self, attributes: PathAttributes) -> str:
        """The ingress check that a path fails; empty: none. Such a path is as good as withdrawn, whatever policy says.

        RFC 4271 section 9.1.2 (AS loops), RFC 4456 section 8 (reflection loops), RFC 4271 section 6.3 (next hops). What
        is malformed was sorted out before (RFC 7606).
        """
        peer, us = self._config, self._us
        for own in {us.asn, peer.local_as or us.asn}:
            if sum(numbers.count(own) for _, numbers in attributes.as_path) > peer.allowed_local_as:
                return f"our own AS {own} is in AS_PATH"
        if peer.enforce_first_as and not self._internal and attributes.neighbour_as != self._peer_as:
            return f"AS_PATH does not begin with the peer's AS {self._peer_as}"
        if attributes.originator_id == us.router_id:
            return "we are its ORIGINATOR_ID"
        if (us.cluster_id or us.router_id) in attributes.cluster_list:
            return "we are in its CLUSTER_LIST"
        next_hop = attributes.next_hop
        if next_hop is None:
            return "NEXT_HOP is missing"
        if next_hop in (self._local, peer.local_address, *us.addresses):
            return f"NEXT_HOP {next_hop} is ourselves"
        if plain(next_hop).is_loopback and not plain(peer.address).is_loopback:
            return f"NEXT_HOP {next_hop} is a loopback address"
        return self._next_hop_refusal(attributes)

    def _apply_policy(self, keys: Sequence[Nlri], path: Path, reason: str) -> list[Output]:
        if reason:
            outputs = self._without(keys)
            self.rejected.update(dict.fromkeys(keys, reason))
            if reason == self._next_hop_refusal(path.attributes):
                self.filtered.update(dict.fromkeys(keys))
            return outputs
        if refused := self._refused(keys, path):
            rest = [key for key in keys if key not in refused]
            outputs = self._refuse(refused)
            return outputs + self._apply_rules(rest, path) if rest else outputs
        return self._apply_rules(keys, path)

    def _next_hop_refusal(self, attributes: PathAttributes) -> str:
        next_hop, refusal = attributes.next_hop, self._hop_refusal
        return refusal(next_hop) if refusal is not None and next_hop is not None else ""

    def _refuse(self, refused: Mapping[Nlri, str]) -> list[Output]:
        """The prefix filter refuses these; the first ones are told."""
        outputs = self._without(refused)
        if not self.filtered:
            key, why = next(iter(refused.items()))
            outputs.append(UpdateFaults((f"{unpack(prefix_of(key), self.family)} is refused: {why}",)))
        self.rejected.update(refused)
        self.filtered.update(dict.fromkeys(refused))
        return outputs

    def _refused(self, keys: Sequence[Nlri], path: Path) -> dict[Nlri, str]:
        """Those that the prefix filter refuses, or a claim on a block, and why."""
        refusal, refused = self._refusal, dict[Nlri, str]()
        plain_keys = path.source.path_id is None
        if refusal is not None:
            named = ((key, key if plain_keys else prefix_of(key)) for key in keys)
            refused = {key: why for key, prefix in named if (why := refusal(prefix))}
        if self.checks_claims:
            claimed, peer, longest = self.claims.refusal, self._config.address, LONGEST[self.family]
            others = {key: claimed(prefix_of(key), peer, longest) for key in keys if key not in refused}
            refused |= {key: why for key, why in others.items() if why}
        return refused

    @property
    def checks_claims(self) -> bool:
        """Whether claims on blocks count against this peer."""
        return self._config.policy.checks_claims and bool(self.claims.owners)

    def _apply_rules(self, keys: Sequence[Nlri], path: Path) -> list[Output]:
        if self._policy is None:
            self._unreject(keys)
            return [self._learned(keys, path)]
        accepted: dict[PathAttributes, list[Nlri]] = {}
        rejected: dict[Nlri, str] = {}
        for key in keys:
            result = self._policy(Candidate(prefix_of(key), path.attributes, learned=True))
            if result.attributes is None:
                rejected[key] = result.reason
            else:
                accepted.setdefault(result.attributes, []).append(key)
        outputs = self._without(rejected) if rejected else []
        self.rejected.update(rejected)
        for attributes, some in accepted.items():
            self._unreject(some)
            outputs.append(self._learned(some, Path(attributes, path.source)))
        return outputs

    def _unreject(self, keys: Iterable[Nlri]) -> None:
        if self.rejected:
            for key in keys:
                self.rejected.pop(key, None)
                self.filtered.pop(key, None)

    def _without(self, keys: Iterable[Nlri]) -> list[Output]:
        """The Loc-RIB loses these, as far as it had them."""
        gone = list(keys)
        if self.rejected:
            had = [key for key in gone if key not in self.rejected]
            self._unreject(gone)
            gone = had
        return [
            Withdrawn(some if path_id is None else [prefix_of(key) for key in some], self.family, path_id)
            for path_id, some in by_path_id(gone)
        ]

    def _learned(self, keys: Sequence[Nlri], path: Path) -> Learned:
        prefixes = keys if path.source.path_id is None else [prefix_of(key) for key in keys]
        return Learned(prefixes, path, self.family)


def _on_link(attributes: PathAttributes, zone: str) -> PathAttributes:
    """What a peer on the link of an interface announces: its link-local next hop is on that link, and goes first.

    RFC 2545 section 2 and 3: the global one beside it is for others, who are not on the link; we are.
    """
    hop = attributes.link_local or attributes.next_hop
    if not zone or not isinstance(hop, IPv6Address) or not hop.is_link_local:
        return attributes
    return replace(attributes, next_hop=in_zone(hop, zone), link_local=None)
