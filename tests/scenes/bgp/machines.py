"""Machines on one wire: this thread is one of them, the others are namespaces that may lose power; pods behind them.

Promises: a machine that is started in another one's place has its addresses and none of its connections. A pod's
packets leave its machine with the machine's address (masquerade), as with natOutgoing. Nothing of it stays.
Does not know: BGP.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.fixtures.namespace import fresh_namespace, ip

US, THERE = "10.9.0.1", "10.9.0.2"
US6, THERE6 = "fd09::1", "fd09::2"
POD, POD_GATEWAY = "10.66.0.2", "10.66.0.1"
POD6, POD_GATEWAY6 = "fd66::2", "fd66::1"
MASQUERADE = """
table inet pods {
  chain out { type nat hook postrouting priority 100; oifname "eth0" ip saddr 10.66.0.0/24 masquerade; \
oifname "eth0" ip6 saddr fd66::/64 masquerade; }
}
"""


@dataclass(slots=True)
class Machine:
    """A network namespace, held by a process that does nothing."""

    holder: subprocess.Popen[bytes]
    link: str = ""
    """Its end of the wire that is in our namespace."""

    @classmethod
    def start(cls, link: str = "") -> Machine:
        """A new one, with its loopback up."""
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        return cls(holder, link)

    def command(self, *command: str) -> list[str]:
        """A command line that runs there and ends with us."""
        return ["nsenter", "-t", str(self.holder.pid), "-n", "setpriv", "--pdeathsig", "KILL", *command]

    def run(self, words: str, given: str = "") -> None:
        """Run a command there."""
        subprocess.run(self.command(*words.split()), check=True, input=given, text=True)

    def power_off(self) -> None:
        """It is gone from the wire, with all its connections; what still runs there is heard by nobody."""
        ip(f"link delete {self.link}")

    def end(self) -> None:
        """Leave nothing of it."""
        self.holder.kill()
        self.holder.communicate()


@dataclass(slots=True)
class Wire:
    """The wire, a bridge in this thread's namespace, which has the first address."""

    machines: list[Machine] = field(default_factory=list)

    def machine(self) -> Machine:
        """The machine of the second address; one of before must be off."""
        name = f"wire{len(self.machines)}"
        made = Machine.start(name)
        self.machines.append(made)
        ip(f"link add {name} type veth peer name eth0 netns {made.holder.pid}")
        ip(f"link set {name} master br0 up")
        made.run("ip link set eth0 address 02:00:00:00:00:02 up")
        made.run(f"ip address add {THERE}/24 dev eth0")
        made.run(f"ip address add {THERE6}/64 dev eth0 nodad")
        return made

    def pod(self, host: Machine) -> Machine:
        """A pod of a machine."""
        made = Machine.start()
        self.machines.append(made)
        host.run(f"ip link add cali1 type veth peer name eth0 netns {made.holder.pid}")
        host.run("ip link set cali1 up")
        made.run("ip link set eth0 up")
        for address, gateway in ((POD, POD_GATEWAY), (POD6, POD_GATEWAY6)):
            length, more = (24, "") if "." in address else (64, " nodad")
            host.run(f"ip address add {gateway}/{length} dev cali1{more}")
            made.run(f"ip address add {address}/{length} dev eth0{more}")
            made.run(f"ip route add default via {gateway}")
        host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        host.run("nft -f -", MASQUERADE)
        return made


@contextmanager
def wire() -> Iterator[Wire]:
    """A wire with nobody but us."""
    with fresh_namespace():
        ip("link add br0 type bridge")
        ip("link set br0 up")
        ip(f"address add {US}/24 dev br0")
        ip(f"address add {US6}/64 dev br0 nodad")
        made = Wire()
        try:
            yield made
        finally:
            for one in made.machines:
                one.end()
