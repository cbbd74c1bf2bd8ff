"""Calico's etcd v3 keys, typed both ways; the only file with key literals.

Promises: a key made here is read back as the same value, and only such a key is: a foreign key below a known prefix, or
another spelling of one of ours, reads as None, never as a guess. IPv4 inside IPv6 alone has two spellings.
Does not know: what stands under a key.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

from ipam.address_text import text_of
from ipam.model import BLOCK_LENGTHS, Address, HandleId, NodeName, Prefix

RESOURCES = "/calico/resources/v3/projectcalico.org/"
IPAM = "/calico/ipam/v2/"
BLOCKS = f"{IPAM}assignment/"
HOSTS = f"{IPAM}host/"
FENCE = "/tortie-fence"
HANDLES = f"{IPAM}handle/"
IPAM_CONFIG = f"{IPAM}config"
RESERVATIONS = f"{RESOURCES}ipreservations/"
LEADER = "/calico/tortie/v1/leader"
"""Who of all agents gives back what deleted nodes had; no tool of Calico's reads below there."""
TUNNEL_HANDLES = (
    "ipip-tunnel-addr-",
    "vxlan-tunnel-addr-",
    "vxlan-v6-tunnel-addr-",
    "wireguard-tunnel-addr-",
    "wireguard-v6-tunnel-addr-",
)
"""How the handles of a node's tunnel addresses begin; its name follows."""


def escaped(name: str) -> str:
    """A name as one key segment: `%` and `/` are percent-escaped, as Calico does."""
    return name.replace("%", "%25").replace("/", "%2f")


def unescaped(segment: str) -> str:
    """The name behind a key segment."""
    return segment.replace("%2f", "/").replace("%25", "%")


def resource_prefix(plural: str) -> str:
    """The prefix of all resources of a kind: `ippools`, `nodes`, `workloadendpoints` …"""
    return f"{RESOURCES}{plural}/"


def resource_key(plural: str, name: str, namespace: str | None = None) -> str:
    """The key of one resource; namespaced kinds have the namespace before the name."""
    between = f"{escaped(namespace)}/" if namespace is not None else ""
    return f"{RESOURCES}{plural}/{between}{escaped(name)}"


def resource_name(key: str, plural: str) -> tuple[str | None, str] | None:
    """(namespace, name) of a resource's key; None for a key of another kind."""
    if not key.startswith(resource_prefix(plural)):
        return None
    segments = key.removeprefix(resource_prefix(plural)).split("/")
    if not all(segments) or len(segments) > 2:
        return None
    *spaces, name = map(unescaped, segments)
    namespace = spaces[0] if spaces else None
    return (namespace, name) if resource_key(plural, name, namespace) == key else None


def _dashed(cidr: Prefix) -> str:
    return text_of(cidr).replace("/", "-")


def _undashed(segment: str) -> Prefix | None:
    address, _, length = segment.rpartition("-")
    try:
        block = ip_network(f"{address}/{length}")
    except ValueError:
        return None
    return block if segment in (_dashed(block), _dashed_in_hexadecimal(block)) else None


def _dashed_in_hexadecimal(block: Prefix) -> str | None:
    """How another Python writes IPv4 inside IPv6 (see `address_text`)."""
    inside = block.network_address.ipv4_mapped if isinstance(block, IPv6Network) else None
    if inside is None:
        return None
    high, low = divmod(int(inside), 1 << 16)
    return f"::ffff:{high:x}:{low:x}-{block.prefixlen}"


def block_prefix(version: int) -> str:
    """The prefix of all blocks of one IP version, 4 or 6."""
    return f"{BLOCKS}ipv{version}/block/"


def block_key(cidr: Prefix) -> str:
    """The key of a block."""
    return f"{block_prefix(cidr.version)}{_dashed(cidr)}"


def block_keys_around(address: Address) -> tuple[str, ...]:
    """The keys of all blocks that may hold an address, whatever pool they are of."""
    network = IPv4Network if isinstance(address, IPv4Address) else IPv6Network
    alone = network((int(address), address.max_prefixlen))
    lengths = BLOCK_LENGTHS[address.version]
    return tuple(block_key(alone.supernet(new_prefix=length)) for length in lengths)


def overlapping_block_keys(cidr: Prefix) -> tuple[str, ...]:
    """The keys of all blocks that lie around `cidr`, or inside of it and begin where it does, itself left out."""
    return tuple(key for key in block_keys_around(cidr.network_address) if key != block_key(cidr))


def inner_block_prefixes(cidr: Prefix) -> tuple[str, ...]:
    """Prefixes below which all other blocks inside of a block lie: those of the same /24, or of the same /112.

    Blocks beside it lie there too. A block that begins where `cidr` does has another text if it ends in zeros.
    """
    if isinstance(cidr, IPv4Network):
        parts = [cidr] if cidr.prefixlen >= 24 else cidr.subnets(new_prefix=24)
        dotted = (str(part.network_address).rpartition(".")[0] for part in parts)
        return tuple(f"{block_prefix(4)}{text}." for text in dotted)
    # Of a last group that is not zero the text before it is always the same.
    other = type(cidr.network_address)(int(cidr.network_address) | 0xF000)
    return (f"{block_prefix(6)}{text_of(other).rpartition(':')[0]}:",)


def block_of_key(key: str) -> Prefix | None:
    """The CIDR of a block's key; None for any other key."""
    for version in (4, 6):
        if key.startswith(block_prefix(version)):
            block = _undashed(key.removeprefix(block_prefix(version)))
            return block if block is not None and block.version == version else None
    return None


def affinity_prefix(node: NodeName, version: int) -> str:
    """The prefix of a node's claims on blocks of one IP version."""
    return f"{HOSTS}{escaped(node)}/ipv{version}/block/"


def host_key(node: NodeName) -> str:
    """The key by which older Calicos note that a node has addresses."""
    return f"{HOSTS}{escaped(node)}"


def affinity_key(node: NodeName, cidr: Prefix) -> str:
    """The key of a node's claim on a block."""
    return f"{affinity_prefix(node, cidr.version)}{_dashed(cidr)}"


def fence_key(node: NodeName) -> str:
    """The key that all of a node's assignments compare, so that its rewriting ends those still under way.

    Below the node's claims, where it has the right to write; no tool of Calico's reads a key of this form there.
    """
    return f"{HOSTS}{escaped(node)}{FENCE}"


def is_fence(key: str) -> bool:
    """Whether a key below the nodes' claims is none of them, but a node's fence."""
    return key.startswith(HOSTS) and key.endswith(FENCE)


def affinity_of_key(key: str) -> tuple[NodeName, Prefix] | None:
    """(node, block) of a claim's key; None for any other key."""
    if not key.startswith(HOSTS):
        return None
    match key.removeprefix(HOSTS).split("/"):
        case [node, "ipv4" | "ipv6", "block", dashed] if node:
            name, block = NodeName(unescaped(node)), _undashed(dashed)
            is_own = block is not None and key.startswith(affinity_prefix(name, block.version))
            return (name, block) if block is not None and is_own else None
        case _:
            return None


def handle_key(handle: HandleId) -> str:
    """The key of a handle, which Calico writes as it is: it escapes names of resources' keys alone, and so do we."""
    return f"{HANDLES}{handle}"


def tunnel_handles(node: NodeName) -> tuple[HandleId, ...]:
    """The handles of a node's tunnel addresses."""
    return tuple(HandleId(f"{start}{node}") for start in TUNNEL_HANDLES)


def handle_of_key(key: str) -> HandleId | None:
    """The id of a handle's key; None for any other key."""
    handle = HandleId(key.removeprefix(HANDLES))
    return handle if handle and handle_key(handle) == key else None
