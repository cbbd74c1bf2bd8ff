"""Whatever a runtime says in whatever field: an answer of the specification's form, and the next call is served."""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.cni.plugin import options, spec
from agent.cni.plugin.options import LONGEST_MESSAGE, Code
from agent.cni.plugin.spec import Verb
from tests.fakes.pods import PodFault
from tests.scenes.cni.cni_world import World

RESULT = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1400, "sandbox": "/run/netns/x"}],
    "ips": [{"address": "192.168.0.9/32", "interface": 0, "gateway": "192.168.0.254"}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "192.168.0.254"}],
    "dns": {},
}
WHOLE: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "tortie",
    "mtu": 1400,
    "ipam": {
        "type": "tortie-ipam",
        "assign_ipv4": "true",
        "assign_ipv6": "true",
        "ipv4_pools": ["p"],
        "ipv6_pools": ["p6"],
        "length": 24,
        "length6": 64,
        "gateway": "192.168.0.254",
        "gateway6": "fd00:10::1",
        "routes": [{"dst": "0.0.0.0/0"}],
        "keep": "10m",
    },
    "args": {"cni": {"ips": ["192.168.0.9"], "keep": "5m", "workload": "db"}},
    "runtimeConfig": {
        "ips": ["192.168.0.9"],
        "mac": "02:00:00:00:00:01",
        "io.kubernetes.cri.pod-annotations": {
            "cni.projectcalico.org/ipAddrs": '["192.168.0.9"]',
            "cni.projectcalico.org/ipv4pools": '["p"]',
            "cni.projectcalico.org/ipFamilies": '["IPv4", "IPv6"]',
            "cni.projectcalico.org/hwAddr": "02:00:00:00:00:01",
        },
    },
    "container_settings": {"allow_ip_forwarding": True},
    "prevResult": RESULT,
    "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
}
"""A configuration with every field that is read."""
DEEP = "@deep@"
RAW = {f'"{DEEP}"': "[" * 10_000 + "]" * 10_000, '"@large@"': "1e999", '"@digits@"': "9" * 5000}
"""What json.dumps cannot write."""
ODD: tuple[Any, ...] = (
    *(None, True, -1, 1400.0, 10**30, float("nan"), "@large@", "@digits@"),
    *("", "x", "a\nb", "\x00", "\ud800", "../../x", "\x1b[31m", "é" * 40, "x" * 20_000),
    *([], {}, [[]], [None], [{}], ["\ud800"], {"a": {}}, ["x"] * 1000, DEEP),
)
VARIABLES = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS")
ARGUMENTS = ("K8S_POD_NAME", "K8S_POD_NAMESPACE", "IP", "MAC", "KEEP", "WORKLOAD")
ODD_TEXTS = (
    *("", "x", " ", ".", "..", "/", "../../x", "a/b", "eth0 ", "lo", "%d", "eth%d", "a\nb", "\x00", "a\x00b"),
    *("\ud800", "\ufffd", "\x1b[31mred", "é", "é" * 100, "x" * 300, "x" * 9000, "=", ";", ";;=", "a=b=c;d"),
    *("-1", "1e9", "0x10", "10.0.0.1/33", "fe80::1%eth0", "::ffff:1.2.3.4", "KEEP=1", "K8S_POD_NAME"),
)
CODES = frozenset(code.value for code in Code if code is not Code.INTERNAL)
PRINTABLE_KEY = re.compile(r"[\x21-\x7e]+")
LONGEST_KEY = 1000


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Ten thousand refusals are ten thousand lines, and printing them is most of the time."""
    with capture_logs():
        yield


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.start()
    return made


def paths(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each field of a document, inner and outer ones."""
    steps: Any = range(len(document)) if isinstance(document, list) else document
    for step in steps if isinstance(document, dict | list) else ():
        yield (*above, step)
        yield from paths(document[step], (*above, step))


def spoilt(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> bytes:
    """The document's text with another value at a place."""
    made: Any = copy.deepcopy(document)
    within = made
    for step in path[:-1]:
        within = within[step]
    within[path[-1]] = value
    text = json.dumps(made)
    for placeholder, raw in RAW.items():
        text = text.replace(placeholder, raw)
    return text.encode()


def usual(verb: str, **more: str) -> dict[str, str]:
    words = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}
    return {**words, "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web", **more}


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def fault(answer: tuple[int, bytes], known: frozenset[int] = CODES) -> str | None:
    """What is wrong with an answer's form; None when a runtime can read it."""
    status, output = answer
    try:
        found = json.loads(output.decode(), parse_constant=no_constant) if output else {}
    except ValueError as error:
        return f"not JSON: {error}"
    if (status, "code" in found) not in ((0, False), (1, True)):
        return f"status {status} with {output[:80]!r}"
    if status and found["code"] not in known:
        return f"code {found['code']}: {found['msg']}"
    if status and len(found["msg"]) > LONGEST_MESSAGE:
        return f"a message of {len(found['msg'])} characters"
    return None


async def faults(world: World, environment: dict[str, str], stdin: bytes) -> Iterator[str]:
    """What is wrong with the answer to a call; what an ADD made is removed again."""
    answer = await world.server.call(environment, stdin)
    found = [why] if (why := fault(answer)) is not None else []
    if answer[0] == 0 and environment.get("CNI_COMMAND") == "ADD":
        for verb in ("CHECK", "DEL"):
            again = await world.server.call({**environment, "CNI_COMMAND": verb}, stdin)
            found += [f"then {verb}: {why}"] if (why := fault(again)) is not None else []
    return iter(found)


async def must_stand(world: World) -> None:
    """The bystander is untouched, everything stored has a key of Calico's form, and the next pod is served."""
    assert [one.container_id for one in world.pods.attached.values()] == ["bystander"]
    assert (await world.stored())[1] == 1
    keys = list((await world.store.list("/")).values)
    assert [key for key in keys if not PRINTABLE_KEY.fullmatch(key) or len(key) > LONGEST_KEY] == []
    assert (await world.call("ADD", "next", "next"))[0] == 0
    assert await world.call("DEL", "next", "next") == (0, {})


OTHER = {"name": "other"}
IPAM_ONLY = {**WHOLE, "type": "bridge"}


@pytest.mark.parametrize(
    ("verb", "document"),
    [
        *(pytest.param(verb.value, WHOLE, id=verb.value) for verb in Verb),
        *(pytest.param(verb, IPAM_ONLY, id=f"{verb}, addresses only") for verb in ("ADD", "DEL", "CHECK")),
    ],
)
async def test_every_field_of_every_verb_with_every_wrong_value_gets_a_known_code(
    world: World, verb: str, document: dict[str, Any]
) -> None:
    await world.call("ADD", "bystander", "bystander", config=OTHER)
    wrong = [
        f"{path} = {str(value)[:30]!r}: {why}"
        for path in paths(document)
        for value in ODD
        for why in await faults(world, usual(verb), spoilt(document, path, value))
    ]
    assert wrong == []
    await must_stand(world)


@pytest.mark.parametrize("verb", [verb.value for verb in Verb])
async def test_every_variable_and_argument_with_every_odd_text_gets_a_known_code(
    world: World, verb: str
) -> None:
    await world.call("ADD", "bystander", "bystander", config=OTHER)
    plain = {key: value for key, value in WHOLE.items() if key not in ("args", "runtimeConfig")}
    stdin = json.dumps(plain).encode()
    calls = [usual(verb, **{name: text}) for name in VARIABLES for text in ODD_TEXTS]
    for name in ARGUMENTS:
        pod = "" if name.startswith("K8S") else "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
        calls += [usual(verb, CNI_ARGS=f"{pod}{name}={text}") for text in ODD_TEXTS]
    wrong = [f"{call}: {why}" for call in calls for why in await faults(world, call, stdin)]
    assert wrong == []
    await must_stand(world)


def test_the_table_has_every_field_that_is_read() -> None:
    steps = {str(step).rpartition("/")[2] for path in paths(WHOLE) for step in path}
    known = steps | {*VARIABLES, *ARGUMENTS}
    read = set()
    for module in (options, spec):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            reads = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                *("get", "_object", "_wants", "_pools"),
            )
            if reads:
                read |= {
                    argument.value
                    for argument in node.args  # type: ignore[attr-defined]
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                }
    assert {word for word in read if word and "." not in word} - known == set()
    assert len(read) > 25


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*WHOLE, *WHOLE["ipam"], "cni", "ips"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    verb=st.sampled_from([verb.value for verb in Verb]),
    fields=st.dictionaries(st.sampled_from([*WHOLE]), JSON, max_size=3),
    words=st.dictionaries(
        st.sampled_from(VARIABLES[1:]), st.text(st.characters(exclude_categories=[]), max_size=30)
    ),
)
async def test_no_call_of_any_content_is_answered_otherwise(
    tmp_path: Path, verb: str, fields: dict[str, Any], words: dict[str, str]
) -> None:
    world = World(tmp_path)
    await world.start()
    assert list(await faults(world, usual(verb, **words), json.dumps({**WHOLE, **fields}).encode())) == []


def levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


@settings(deadline=None)
@given(value=JSON | st.text('[]{}"\\a'))
def test_how_deep_a_text_of_json_is_can_be_said_without_a_parser(value: Any) -> None:
    assert spec.depth(json.dumps(value).encode()) == levels(value)


@given(stdin=st.binary(max_size=200))
def test_octets_that_are_no_configuration_are_refused_before_anything_else(stdin: bytes) -> None:
    with pytest.raises(options.CniError) as caught:
        spec.parse(usual("ADD"), b"\x01" + stdin)
    assert caught.value.code is Code.UNDECODABLE


async def test_of_two_keys_of_one_name_the_last_one_counts_as_for_the_runtime(world: World) -> None:
    stdin = b'{"cniVersion":"1.1.0","name":"one","type":"tortie","name":"two"}'
    assert (await world.server.call(usual("ADD"), stdin))[0] == 0
    assert world.cluster.endpoints[0].spec.profiles == ["two"]


async def test_a_failure_that_nobody_foresaw_is_that_calls_answer(world: World) -> None:
    await world.call("ADD")

    async def broken(host_interface: str) -> str | None:
        raise ZeroDivisionError("of the test")

    known, world.pods.owner = world.pods.owner, broken  # type: ignore[method-assign]
    status, error = await world.call("DEL")
    assert (status, error["code"]) == (1, 999)
    assert "ZeroDivisionError: of the test" in error["msg"]
    world.pods.owner = known  # type: ignore[method-assign]
    assert await world.call("DEL") == (0, {})
    assert await world.stored() == (0, 0, 0)


async def test_a_gc_goes_on_after_a_failure_that_nobody_foresaw(world: World) -> None:
    for number in range(3):
        await world.call("ADD", f"c{number}", f"pod{number}")
    known = world.pods.owner
    failing = next(iter(world.pods.attached))

    async def broken(host_interface: str) -> str | None:
        if host_interface == failing:
            raise ZeroDivisionError("of the test")
        return await known(host_interface)

    world.pods.owner = broken  # type: ignore[method-assign]
    status, error = await world.call("GC", config={"cni.dev/valid-attachments": []})
    assert (status, error["code"]) == (1, 5)
    assert "1 could not be freed" in error["msg"]
    assert list(world.pods.attached) == [failing]


async def test_a_container_whose_id_begins_like_anothers_does_not_take_its_device(world: World) -> None:
    one, other = "0" * 63 + "1", "0" * 63 + "2"
    assert (await world.call("ADD", one, environment={"CNI_ARGS": ""}))[0] == 0
    status, error = await world.call("ADD", other, environment={"CNI_ARGS": ""})
    assert (status, error["code"]) == (1, 100)
    assert f"cali00000000000 is the device of container {one}" in error["msg"]
    assert [made.container_id for made in world.pods.attached.values()] == [one]
    assert await world.call("DEL", other, environment={"CNI_ARGS": ""}) == (0, {})
    assert [made.container_id for made in world.pods.attached.values()] == [one]
    assert await world.stored() == (1, 1, 1)


async def test_a_namespace_that_vanishes_meanwhile_leaves_nothing(world: World) -> None:
    world.pods.faults.add(PodFault.NO_NAMESPACE)
    status, error = await world.call("ADD")
    assert (status, error["code"]) == (1, 8)
    assert await world.stored() == (0, 0, 0)
