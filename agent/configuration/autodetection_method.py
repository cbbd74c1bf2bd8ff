"""How a node's address is chosen, in the words of Calico's IP_AUTODETECTION_METHOD.

Its expressions are not anchored there, so they are not here: `eth` matches eth0 and veth1, `^eth0$` eth0 alone.

Promises: pure; a wrong word is one sentence. Does not know: interfaces, routes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_network

WORDS = "route, first-found, can-reach=HOST, interface=REGEX, skip-interface=REGEX or cidr=CIDR,..."


class MethodKind(Enum):
    """The words before the equals sign of a method."""

    ROUTE = "route"
    """The source of the kernel's route to the datastore (beside it, when it is here), else of its default route."""
    FIRST_FOUND = "first-found"
    CAN_REACH = "can-reach"
    INTERFACE = "interface"
    SKIP_INTERFACE = "skip-interface"
    CIDR = "cidr"


@dataclass(frozen=True, slots=True)
class AutodetectionMethod:
    """The kind of choice, and its hosts, patterns or networks."""

    kind: MethodKind
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind.value}={','.join(self.arguments)}" if self.arguments else self.kind.value


def parse_method(text: str) -> AutodetectionMethod:
    """The method behind a setting. Raises ValueError with a sentence."""
    word, equals, rest = text.strip().partition("=")
    try:
        how = MethodKind(word or MethodKind.ROUTE.value)
    except ValueError:
        raise ValueError(f"{text!r} is none of {WORDS}") from None
    arguments = tuple(part.strip() for part in rest.split(",") if part.strip())
    if bool(arguments) != (how not in (MethodKind.ROUTE, MethodKind.FIRST_FOUND)) or bool(equals) != bool(
        arguments
    ):
        raise ValueError(f"{text!r} is none of {WORDS}")
    for argument in arguments:
        _check(how, argument)
    return AutodetectionMethod(how, arguments)


def _check(how: MethodKind, argument: str) -> None:
    try:
        if how is MethodKind.CIDR:
            ip_network(argument, strict=False)
        elif how in (MethodKind.INTERFACE, MethodKind.SKIP_INTERFACE):
            re.compile(argument)
    except (ValueError, re.error) as error:
        raise ValueError(f"{how.value}={argument}: {error}") from None
