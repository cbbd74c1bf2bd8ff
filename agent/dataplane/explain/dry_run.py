"""What the next pass would change in the kernel, and why; nothing is written.

Promises: pure; the steps are those that the reconciler's own plan makes of the same wish and picture. A list is
bounded; the count tells the rest. Does not know: how a step is carried out, how it is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from agent.dataplane.explain.route_reasons import Reasons, RouteSnapshot
from agent.dataplane.kinds import diff
from agent.dataplane.kinds.delta import Delta
from agent.netlink.objects import FdbEntry, Kind, Neighbour, RouteKey, Tunnel

MOST_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """One change, or a wish that cannot be carried out now."""

    kind: str
    verb: str
    """`create`, `replace`, `delete`; `wait` and `conflict` for what is wished and not done."""
    what: str
    was: str
    """What stands there now; empty for nothing."""
    why: str


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The next pass."""

    steps: tuple[Step, ...]
    more: int
    """Steps beyond those listed."""
    reserves: tuple[str, ...]
    """What keeps the pass from doing all that is wished."""


def foreseen(seen: RouteSnapshot, reasons: Reasons, held: Mapping[str, str]) -> Foreseen:
    """All steps of a pass over this picture, in its order; `held` are the mass removals that it would put off."""
    steps = _steps(seen, reasons)
    listed = tuple(islice(steps, MOST_STEPS))
    more = sum(1 for _ in steps)
    reserves = []
    if not seen.wish.complete:
        reserves.append("the datastore was not read as a whole yet: nothing is replaced or deleted")
    elif not seen.wish.bgp_complete:
        reserves.append("BGP has not heard every peer yet: no learned route is deleted")
    reserves += [f"a mass removal is held back: {kind}: {why}" for kind, why in held.items()]
    return Foreseen(listed, more, tuple(reserves))


def _steps(seen: RouteSnapshot, reasons: Reasons) -> Iterator[Step]:
    wish, picture, links = seen.wish, seen.picture, seen.links
    tunnels = diff.tunnel_steps(wish, picture)
    neighbours = diff.neighbour_steps(wish, picture, links)
    forwarding = diff.fdb_steps(wish, picture, links)
    for kind, delta in ((Kind.TUNNEL, tunnels), (Kind.NEIGHBOUR, neighbours), (Kind.FDB, forwarding)):
        yield from _of(kind, delta, diff.of_kind(picture, kind))
    for name, switch in diff.sysctl_steps(wish, picture).items():
        was = f"{name} = {picture.sysctls[name].value}"
        yield Step("sysctl", "replace", f"{name} = {switch.value}", was, "pods' traffic needs it")
    yield from _routes(seen, reasons)
    masquerade = diff.masquerade_step(wish, picture)
    if masquerade is not None:
        what = ", ".join(sorted(map(str, masquerade.sources)))
        verb = ("replace" if picture.masquerade else "create") if what else "delete"
        yield Step(
            "masquerade",
            verb,
            what or "table tortie",
            str(picture.masquerade or ""),
            "natOutgoing of the pools",
        )
    for key, chain in diff.forward_steps(wish, picture).items():
        why = "it drops what pods send" if chain.opened else "it drops nothing, or kernel.open_forward is off"
        yield Step("forward", "create" if chain.opened else "delete", " ".join(key), "", why)


def _of(kind: Kind, delta: Delta[Any, Any], actual: Mapping[Any, Any]) -> Iterator[Step]:
    name = kind.name.lower()
    for value in delta.create.values():
        yield Step(name, "create", _text(value), "", "other nodes are reached by it")
    for key, value in delta.replace.items():
        yield Step(name, "replace", _text(value), _text(actual.get(key)), "it stands otherwise than wished")
    for value in delta.delete.values():
        yield Step(name, "delete", "", _text(value), "no pool or node asks for it any more")


def _text(value: Any) -> str:
    """As ip(8) and bridge(8) say it, near enough."""
    match value:
        case Tunnel():
            words = [value.name, value.kind.value, f"mtu {value.mtu}"]
            words += [f"address {value.address}"] if value.address else []
            words += (
                [f"id {value.vni} port {value.port} dev {value.parent} local {value.local}"]
                if value.vni
                else []
            )
            return " ".join(words if value.up else [*words, "down"])
        case Neighbour():
            return f"{value.address} dev {value.device} lladdr {value.mac}"
        case FdbEntry():
            return f"{value.mac} dev {value.device} dst {value.remote}"
        case _:
            return ""


def _routes(seen: RouteSnapshot, reasons: Reasons) -> Iterator[Step]:
    found = diff.route_steps(seen.wish, seen.picture, seen.links, seen.ownership)

    def why(key: RouteKey) -> str:
        return reasons.of(key)[1]

    for key, route in found.delta.create.items():
        yield Step("route", "create", str(route), "", why(key))
    for key, route in found.delta.replace.items():
        yield Step("route", "replace", str(route), str(seen.picture.routes.get(key, "")), why(key))
    for key, route in found.delta.delete.items():
        withdrawn = key in found.withdrawn
        yield Step(
            "route",
            "delete",
            "",
            str(route),
            "withdrawn by BGP" if withdrawn else "nothing asks for it any more",
        )
    for key, text in found.waiting.items():
        yield Step("route", "wait", str(seen.wish.dataplane.routes[key]), "", text)
    for key, route in found.conflicts.items():
        yield Step(
            "route", "conflict", str(seen.wish.dataplane.routes[key]), str(route), diff.conflict_reason(route)
        )
