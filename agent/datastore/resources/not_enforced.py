"""What Calico's resources may ask for and this agent does not do, by design: one list, a line for each.

KIND_LIMITS has whole kinds that are not followed, FIELD_LIMITS fields of which a value asks for something. A limit that
is one no more is a line less here, and one in docs/limits.md.
Promises: pure. What Calico itself writes without being asked (its tiers, a namespace's profile, a network's) asks for
nothing. Does not know: how resources are read, whom this is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import field

from agent.datastore.resources.resource_types import API_VERSION, Metadata
from agent.trouble import Trouble, TroubleKind
from ipam.etcd.store import Versioned
from ipam.keys import resource_name
from ipam.stored_json import read_stored, stored_object

PAGE = "docs/limits.md"
DEFAULT_TIERS = frozenset(
    {"default", "kube-admin", "kube-baseline", "adminnetworkpolicy", "baselineadminnetworkpolicy"}
)
"""Tiers that Calico makes by itself, today's and those of older versions."""
SERVICE_ACCOUNT = "ksa."
"""How the names of profiles begin that only label the pods of a service account."""
NOT_ANNOUNCED = "nobody announces these addresses of services"
LONGEST_VALUE = 60
"""Characters shown of a value that asks for something."""

Spec = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KindLimit:
    """A kind of resource that nobody here follows: each one counts that asks for something."""

    kind: str
    plural: str
    """As in its etcd keys."""
    one: str
    many: str
    """What a sentence calls them; kinds of one word are counted together there."""
    asks: Callable[[str, Spec], bool] | None = None
    """Whether one, by its name and spec, asks for something; None: each does, and its value is not read."""


@dataclass(frozen=True, slots=True)
class FieldLimit:
    """A field of a kind that is followed, or of which only some fields matter."""

    kind: str
    field: str
    loss: str
    """What is not done while it asks for something."""
    silent: tuple[object, ...] = ()
    """Values that ask for nothing, besides the empty ones: the default, or what this agent does anyway."""
    form: Any = str
    """The type of its values."""

    @property
    def name(self) -> str:
        """As the metric names it."""
        return f"{self.kind}.{self.field}"

    def asks(self, spec: Spec) -> bool:
        """Whether a resource's spec asks for it."""
        value = spec.get(self.field)
        return bool(value) and value not in self.silent


def read_spec(kind: str, plural: str, value: Versioned) -> tuple[str, Spec]:
    """(name, spec) of a stored resource of a kind that nobody follows, as far as its limits are concerned.

    Raises Unreadable.
    """

    def found(stored: Versioned) -> tuple[str, Spec]:
        document = stored_object(stored)
        named = resource_name(stored.key, plural)
        if named is None or named[0] is not None:
            raise ValueError(f"is not the key of a {kind}")
        read = msgspec.convert(document, _Document)
        if read.kind != kind:
            raise ValueError(f"kind: {read.kind!r} is no {kind}")
        if read.metadata.name != named[1]:
            raise ValueError(f"metadata.name: {read.metadata.name!r} is not the name of this key")
        spec = read.spec or {}
        for name, form in _forms(kind).items():
            try:
                msgspec.convert(spec.get(name), form | None)
            except msgspec.ValidationError as error:
                raise ValueError(f"spec.{name}: {error}") from error
        return named[1], spec

    return read_stored(value, found)


class _Document(msgspec.Struct, rename="camel"):
    kind: str
    metadata: Metadata
    api_version: str = API_VERSION
    spec: dict[str, Any] | None = None


class _Entity(msgspec.Struct, rename="camel"):
    """Whom a rule concerns."""

    nets: list[str] | None = None
    not_nets: list[str] | None = None
    selector: str | None = None
    not_selector: str | None = None
    namespace_selector: str | None = None
    ports: list[int | str] | None = None
    not_ports: list[int | str] | None = None


class _Rule(msgspec.Struct, rename="camel"):
    """A profile's rule, as far as it decides whether the profile is open."""

    action: Literal["Allow", "Deny", "Log", "Pass"]
    source: _Entity | None = None
    destination: _Entity | None = None
    protocol: int | str | None = None
    ip_version: int | None = field(default=None, name="ipVersion")


def _forms(kind: str) -> Mapping[str, Any]:
    """Field -> type, of those fields of a kind that are looked at."""
    if kind == "Profile":
        return {"ingress": list[_Rule], "egress": list[_Rule], "labelsToApply": dict[str, str]}
    if kind == "Tier":
        return {"order": float, "defaultAction": str}
    return {limit.field: limit.form for limit in fields_of(kind)}


def tier_asks(name: str, spec: Spec) -> bool:
    """Whether a tier is none of Calico's own."""
    return name not in DEFAULT_TIERS


def profile_asks(name: str, spec: Spec) -> bool:
    """Whether a profile keeps anything from its pods.

    One of a service account has no rules and only labels. That of a CNI network, as Calico's plugin makes it, stands
    for membership (docs/limits.md).
    """
    rules = {way: _items(spec.get(way)) for way in ("ingress", "egress")}
    if name.startswith(SERVICE_ACCOUNT) and not any(rules.values()):
        return False
    of_network = [{"action": "Allow", "source": {"selector": f"has({name})"}}]
    is_open_inwards = _is_open(rules["ingress"]) or [*map(_set_fields, rules["ingress"])] == of_network
    return not (is_open_inwards and _is_open(rules["egress"]))


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _set_fields(rule: object) -> dict[str, Any]:
    """A rule without what is empty in it."""
    return {key: value for key, value in rule.items() if value} if isinstance(rule, dict) else {}


def _is_open(rules: Iterable[object]) -> bool:
    """Whether a list of rules ends with an Allow for everything, and none before it denies anything."""
    for rule in map(_set_fields, rules):
        if rule == {"action": "Allow"}:
            return True
        if rule.get("action") not in ("Allow", "Log"):
            return False
    return False


KIND_LIMITS: tuple[KindLimit, ...] = (
    KindLimit("NetworkPolicy", "networkpolicies", "policy", "policies"),
    KindLimit("GlobalNetworkPolicy", "globalnetworkpolicies", "policy", "policies"),
    KindLimit("HostEndpoint", "hostendpoints", "host endpoint", "host endpoints"),
    KindLimit("Tier", "tiers", "tier", "tiers", tier_asks),
    KindLimit("Profile", "profiles", "profile with rules", "profiles with rules", profile_asks),
    KindLimit("StagedNetworkPolicy", "stagednetworkpolicies", "staged policy", "staged policies"),
    KindLimit("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", "staged policy", "staged policies"),
    KindLimit(
        "StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", "staged policy", "staged policies"
    ),
)
FIELD_LIMITS: tuple[FieldLimit, ...] = (
    FieldLimit(
        "FelixConfiguration", "wireguardEnabled", "packets between nodes are not encrypted", form=bool
    ),
    FieldLimit(
        "FelixConfiguration", "wireguardEnabledV6", "packets between nodes are not encrypted", form=bool
    ),
    FieldLimit(
        "FelixConfiguration",
        "bpfEnabled",
        "packets go the kernel's usual way, and services are kube-proxy's",
        form=bool,
    ),
    FieldLimit(
        "FelixConfiguration",
        "vxlanVNI",
        "tunnels have VNI 4096, and do not reach nodes of Calico's",
        (4096,),
        form=int,
    ),
    FieldLimit(
        "FelixConfiguration",
        "vxlanPort",
        "tunnels use UDP port 4789, and do not reach nodes of Calico's",
        (4789,),
        form=int,
    ),
    FieldLimit(
        "FelixConfiguration", "vxlanMTU", "vxlan.calico has what the underlay leaves of its MTU", form=int
    ),
    FieldLimit(
        "FelixConfiguration",
        "vxlanMTUV6",
        "vxlan-v6.calico has what the underlay leaves of its MTU",
        form=int,
    ),
    FieldLimit("FelixConfiguration", "ipipMTU", "tunl0 has what the underlay leaves of its MTU", form=int),
    FieldLimit(
        "FelixConfiguration",
        "defaultEndpointToHostAction",
        "pods reach their own node all the same",
        ("Accept", "Return"),
    ),
    FieldLimit("FelixConfiguration", "floatingIPs", "no floating address leads to a pod", ("Disabled",)),
    FieldLimit(
        "FelixConfiguration",
        "natPortRange",
        "the kernel chooses the ports of masqueraded connections",
        form=Annotated[int, msgspec.Meta(ge=0, le=65535)] | str,
    ),
    FieldLimit("FelixConfiguration", "natOutgoingAddress", "the kernel chooses the address that masquerades"),
    FieldLimit(
        "FelixConfiguration",
        "natOutgoingExclusions",
        "what goes to the hosts' own networks is masqueraded",
        ("IPPoolsOnly",),
    ),
    FieldLimit(
        "FelixConfiguration",
        "externalNodesList",
        "tunnelled packets of these addresses are not expected",
        form=list[str],
    ),
    FieldLimit(
        "FelixConfiguration", "deviceRouteSourceAddress", "the kernel chooses the address towards a pod"
    ),
    FieldLimit(
        "FelixConfiguration", "deviceRouteSourceAddressIPv6", "the kernel chooses the address towards a pod"
    ),
    FieldLimit("BGPConfiguration", "serviceClusterIPs", NOT_ANNOUNCED),
    FieldLimit("BGPConfiguration", "serviceExternalIPs", NOT_ANNOUNCED),
    FieldLimit("BGPConfiguration", "serviceLoadBalancerIPs", NOT_ANNOUNCED),
    FieldLimit("BGPConfiguration", "localWorkloadPeeringIPV4", "no pod has a BGP session with its node"),
    FieldLimit("BGPConfiguration", "localWorkloadPeeringIPV6", "no pod has a BGP session with its node"),
)


def fields_of(kind: str) -> tuple[FieldLimit, ...]:
    """The limits among the fields of a kind."""
    return tuple(limit for limit in FIELD_LIMITS if limit.kind == kind)


def sentence(counts: Mapping[str, int]) -> str | None:
    """How many resources are not enforced, by kind: `3 policies, 1 host endpoint …`; None if there is none."""
    by_word: dict[tuple[str, str], int] = {}
    for limit in KIND_LIMITS:
        word = limit.one, limit.many
        by_word[word] = by_word.get(word, 0) + counts.get(limit.kind, 0)
    found = [f"{count} {one if count == 1 else many}" for (one, many), count in by_word.items() if count]
    if not found:
        return None
    is_one = sum(by_word.values()) == 1
    return f"{', '.join(found)} in this datastore {'is' if is_one else 'are'} not enforced by this agent"


def limit_troubles(counts: Mapping[str, int], specs: Mapping[str, Spec]) -> Iterator[Trouble]:
    """What is asked for and not done: all kinds in one, each field by itself.

    `specs` has what holds here of a kind.
    """
    if (found := sentence(counts)) is not None:
        loss = "every packet passes that they would drop"
        yield Trouble(TroubleKind.LIMIT, "", found, loss, f"see {PAGE}")
    for limit in FIELD_LIMITS:
        spec = specs.get(limit.kind, {})
        if limit.asks(spec):
            yield Trouble(
                TroubleKind.LIMIT,
                limit.kind,
                f"{limit.field} is {_shown(spec[limit.field])}, which this agent does not do",
                limit.loss,
                f"see {PAGE}",
            )


def samples(counts: Mapping[str, int], specs: Mapping[str, Spec]) -> dict[str, int]:
    """Every limit by name: of a kind how many resources ask for it, of a field whether it does."""
    found = {limit.kind: counts.get(limit.kind, 0) for limit in KIND_LIMITS}
    return found | {limit.name: int(limit.asks(specs.get(limit.kind, {}))) for limit in FIELD_LIMITS}


def _shown(value: object) -> str:
    text = (
        str(value).lower()
        if isinstance(value, bool)
        else ascii(value)
        if isinstance(value, str)
        else str(value)
    )
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
