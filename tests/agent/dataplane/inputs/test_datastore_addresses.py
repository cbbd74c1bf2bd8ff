"""The datastore's addresses: from the start where they are written, and as names are resolved."""

from __future__ import annotations

from ipaddress import ip_address

from agent.dataplane.inputs.datastore_addresses import DatastoreAddresses


def unchanged() -> None:
    raise AssertionError("nothing changed")


async def test_addresses_that_are_written_are_known_from_the_start_and_ask_nobody() -> None:
    endpoints = ("https://10.0.0.5:2379", "10.0.0.6:2379", "http://[fd00::5]:2379", "http://")
    found = DatastoreAddresses(endpoints, unchanged)
    assert found.addresses == {ip_address(one) for one in ("10.0.0.5", "10.0.0.6", "fd00::5")}
    await found.resolve()


async def test_a_name_is_resolved_and_keeps_its_addresses_when_it_cannot_be() -> None:
    changes: list[int] = []
    found = DatastoreAddresses(("http://localhost:2379", "http://10.0.0.5"), lambda: changes.append(1))
    assert found.addresses == {ip_address("10.0.0.5")}
    await found.resolve()
    assert ip_address("127.0.0.1") in found.addresses or ip_address("::1") in found.addresses
    known = found.addresses
    await found.resolve()
    assert (found.addresses, changes) == (known, [1])


async def test_a_name_that_is_none_changes_nothing() -> None:
    found = DatastoreAddresses(("http://nobody.invalid:2379", f"http://{'a' * 70}.b:1"), unchanged)
    await found.resolve()
    assert found.addresses == frozenset()
