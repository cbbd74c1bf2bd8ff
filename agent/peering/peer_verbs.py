"""What a person tells of one peer: refresh it, reset it, disable it, enable it, as the control socket takes it.

Promises: a wrong word is a ValueError with one sentence, and nothing has changed; each verb is in the log.
Does not know: sockets, how an answer is printed, what a peer is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

import msgspec
import structlog

from agent.clock import Clock
from agent.peering.disabled_peers import Disabled, DisabledPeers
from agent.peering.looking_glass_api import find_peer
from agent.peering.peers import DesiredPeer
from bgp.transport.speaker import Speaker
from bgp.wire.families import Address
from ipam.address_text import text_of

log = structlog.get_logger()


class ResetQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `tortie bgp reset` asks."""

    peer: str
    """By address or name."""
    hard: bool = False


class DisableQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `tortie bgp disable` asks."""

    peer: str
    text: str = ""


_Question = TypeVar("_Question")


def _read(text: str, kind: type[_Question]) -> _Question:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the question cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class PeerVerbs:
    """The verbs, over a speaker and its peers at the moment of each."""

    speaker: Callable[[], Speaker | None]
    desired: Callable[[], Mapping[Address, DesiredPeer]]
    disabled: DisabledPeers
    follow: Callable[[], None]
    """Have the speaker follow what is disabled now."""
    clock: Clock

    @property
    def answers(self) -> Mapping[str, Callable[[str], Any]]:
        """Word of the control socket -> its answer."""
        return {
            "peer-refresh": self.refresh,
            "peer-reset": self.reset,
            "peer-disable": self.disable,
            "peer-enable": self.enable,
        }

    def refresh(self, word: str) -> dict[str, str]:
        """Both sides say everything again, in the session that there is. Raises ValueError."""
        address, speaker = self._named(word)
        speaker.refresh(address)
        return self._done("refresh", address, "was asked for everything again, and is sent everything again")

    def reset(self, text: str) -> dict[str, str]:
        """A new session. Raises ValueError."""
        question = _read(text, ResetQuestion)
        address, speaker = self._named(question.peer)
        speaker.reset(address, is_hard=question.hard)
        what = (
            "is reset, and both sides forget the paths" if question.hard else "is reset, and keeps the paths"
        )
        return self._done("reset", address, what)

    def disable(self, text: str) -> dict[str, str]:
        """No session from now on. Raises ValueError, OSError."""
        question = _read(text, DisableQuestion)
        address, _ = self._named(question.peer)
        self.disabled.disable(address, Disabled(self.clock.wall(), " ".join(question.text.split())))
        self.follow()
        return self._done("disable", address, f"is disabled until: tortie bgp enable {question.peer}")

    def enable(self, word: str) -> dict[str, str]:
        """A session again; also of one that is no peer any more. Raises ValueError, OSError."""
        address = self._disabled(word)
        self.disabled.enable(address)
        self.follow()
        return self._done("enable", address, "is enabled")

    def _named(self, word: str) -> tuple[Address, Speaker]:
        speaker = self.speaker()
        if speaker is None:
            raise ValueError("this node does not speak BGP now; see: tortie node status")
        address = find_peer(self.desired(), word)
        if address not in speaker.instance.peers:
            raise ValueError(f"{word} is not a peer yet; see: tortie bgp peers")
        return address, speaker

    def _disabled(self, word: str) -> Address:
        try:
            if (address := ip_address(word)) in self.disabled.peers:
                return address
        except ValueError:
            pass
        return find_peer(self.desired(), word)

    def _done(self, verb: str, address: Address, what: str) -> dict[str, str]:
        peer = self.desired().get(address)
        name = peer.config.description if peer is not None else ""
        log.info("bgp.peer_verb", verb=verb, peer=text_of(address), name=name)
        said = f"{name} ({text_of(address)})" if name else text_of(address)
        return {"address": text_of(address), "name": name, "verb": verb, "done": f"{said} {what}"}
