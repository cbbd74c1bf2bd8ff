"""What a Felix leaves when it is stopped, in each of its modes, and how it is put into the present namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

SPACES = "/usr/sbin:/sbin:/usr/bin:/bin"
IPTABLES_FILTER = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:others - [0:0]
:cali-INPUT - [0:0]
:cali-FORWARD - [0:0]
:cali-OUTPUT - [0:0]
:cali-from-hep-forward - [0:0]
:cali-from-wl-dispatch - [0:0]
:cali-from-wl-dispatch-1 - [0:0]
:cali-to-wl-dispatch - [0:0]
:cali-fw-cali12345678901 - [0:0]
:cali-tw-cali12345678901 - [0:0]
:cali-wl-to-host - [0:0]
-A INPUT -m comment --comment "cali:inputinputinput1" -j cali-INPUT
-A FORWARD -m comment --comment "cali:forwardforward01" -j cali-FORWARD
-A FORWARD -m comment --comment "not of cali: -j cali-FORWARD" -j others
-A FORWARD -m comment --comment "cali:middlemiddle0001" -m mark --mark 0x40000/0x40000 -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 179 -j ACCEPT
-A FORWARD -m comment --comment "cali:acceptaccept0001" -m comment --comment "Policy explicitly accepted packet." \
-m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -m comment --comment "cali:markmarkmark0001" -j MARK --set-xmark 0x10000/0x10000
-A OUTPUT -m comment --comment "cali:outputoutput0001" -j cali-OUTPUT
-A others -j RETURN
-A cali-INPUT -i cali+ -m comment --comment "cali:inputinput000002" -g cali-wl-to-host
-A cali-FORWARD -m comment --comment "cali:forwardforward02" -j MARK --set-xmark 0x0/0xe0000
-A cali-FORWARD -m comment --comment "cali:forwardforward03" -m mark --mark 0x0/0x10000 -j cali-from-hep-forward
-A cali-FORWARD -i cali+ -m comment --comment "cali:forwardforward04" -j cali-from-wl-dispatch
-A cali-FORWARD -o cali+ -m comment --comment "cali:forwardforward05" -j cali-to-wl-dispatch
-A cali-OUTPUT -o cali+ -m comment --comment "cali:outputoutput0002" -j RETURN
-A cali-from-wl-dispatch -i cali1+ -m comment --comment "cali:fromfromfrom0001" -g cali-from-wl-dispatch-1
-A cali-from-wl-dispatch -m comment --comment "cali:fromfromfrom0002" -m comment --comment "Unknown interface" -j DROP
-A cali-from-wl-dispatch-1 -i cali12345678901 -m comment --comment "cali:fromfromfrom0003" -g cali-fw-cali12345678901
-A cali-from-wl-dispatch-1 -m comment --comment "cali:fromfromfrom0004" -m comment --comment "Unknown interface" -j DROP
-A cali-to-wl-dispatch -o cali12345678901 -m comment --comment "cali:tototototo000001" -g cali-tw-cali12345678901
-A cali-to-wl-dispatch -m comment --comment "cali:tototototo000002" -m comment --comment "Unknown interface" -j DROP
-A cali-fw-cali12345678901 -m comment --comment "cali:fwfwfwfwfw000001" -m conntrack --ctstate INVALID -j DROP
-A cali-fw-cali12345678901 -m comment --comment "cali:fwfwfwfwfw000002" -j MARK --set-xmark 0x10000/0x10000
-A cali-tw-cali12345678901 -m comment --comment "cali:twtwtwtwtw000001" -j MARK --set-xmark 0x10000/0x10000
-A cali-wl-to-host -m comment --comment "cali:hosthosthost0001" -j cali-from-wl-dispatch
-A cali-wl-to-host -m comment --comment "cali:hosthosthost0002" -j ACCEPT
COMMIT
"""
IPTABLES_NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:cali-PREROUTING - [0:0]
:cali-nat-outgoing - [0:0]
:cali-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "cali:natnatnatnat0001" -j cali-PREROUTING
-A POSTROUTING -m comment --comment "cali:natnatnatnat0002" -j cali-POSTROUTING
-A cali-POSTROUTING -m comment --comment "cali:natnatnatnat0003" -j cali-nat-outgoing
COMMIT
"""
NFTABLES = """\
table {family} calico {{
  set cali40s-others {{ type ipv4_addr; flags interval; elements = {{ 198.18.0.0/24, 198.18.7.1 }} }}
  map filter-cali-from {{ type ifname : verdict; elements = {{ "cali12345678901" : goto filter-cali-fw-cali1 }} }}
  map filter-cali-to {{ type ifname : verdict; elements = {{ "cali12345678901" : goto filter-cali-tw-cali1 }} }}
  chain filter-cali-fw-cali1 {{ ct state invalid counter drop; counter meta mark set meta mark | 0x10000; }}
  chain filter-cali-tw-cali1 {{ counter meta mark set meta mark | 0x10000; }}
  chain filter-cali-from-wl-dispatch {{
    iifname vmap @filter-cali-from
    counter drop comment "cali:fromfromfrom0002; Unknown interface"
  }}
  chain filter-cali-to-wl-dispatch {{
    oifname vmap @filter-cali-to
    counter drop comment "cali:tototototo000002; Unknown interface"
  }}
  chain filter-cali-from-hep {{ }}
  chain filter-cali-FORWARD {{
    meta mark & 0x10000 == 0 counter jump filter-cali-from-hep comment "cali:forwardforward03"
    iifname "cali*" counter jump filter-cali-from-wl-dispatch comment "cali:forwardforward04"
    oifname "cali*" counter jump filter-cali-to-wl-dispatch comment "cali:forwardforward05"
  }}
  chain filter-FORWARD {{
    type filter hook forward priority 0; policy accept;
    counter jump filter-cali-FORWARD comment "cali:forwardforward01"
  }}
  chain nat-POSTROUTING {{
    type nat hook postrouting priority 0; policy accept;
    ip saddr @cali40s-others counter masquerade
  }}
}}
"""
OTHERS = """\
table inet others { chain forward { type filter hook forward priority 5; policy accept; iifname "cali9" drop; }; }
"""
MODES = (
    "nft ip",
    "nft inet",
    "iptables-nft",
    "ip6tables-nft",
    "iptables-legacy",
    "ip6tables-legacy",
)
"""`nft FAMILY`, or the program whose -restore writes the rules."""


def felix_rules(mode: str) -> tuple[list[str], str]:
    """The program that writes what this mode's Felix leaves, and the text it takes."""
    if mode.startswith("nft"):
        text = NFTABLES.format(family=mode.split()[1])
        return ["nft", "-f", "-"], text + OTHERS
    return [f"{mode}-restore"], IPTABLES_FILTER + IPTABLES_NAT


def run(words: Sequence[str], text: str = "") -> str:
    """A program as a person runs it, in the present namespace; what it prints."""
    done = subprocess.run(
        words, input=text, capture_output=True, text=True, check=False, env={**os.environ, "PATH": SPACES}
    )
    if done.returncode:
        raise OSError(f"{words}: {done.stderr}")
    return done.stdout


def leave_rules(mode: str) -> None:
    """Have a stopped Felix's rules in the present namespace."""
    run(*felix_rules(mode))


def listing(mode: str) -> str:
    """Everything of that kind in the present namespace, as its own program lists it, without counters' stamps."""
    if mode.startswith("nft"):
        tables = sorted(run(["nft", "list", "tables"]).splitlines())
        return "".join(run(["nft", "list", *table.split()]) for table in tables)
    lines = run([f"{mode}-save"]).splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))
