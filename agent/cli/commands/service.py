"""`tortie install`, `uninstall`, `reload`, `version`: the program on this machine, and the agent as its service.

Promises: a fault is one sentence, and what was done until then is printed. What does not answer is said in its place
among the versions.
Does not know: how the agent is installed and removed.
"""

from __future__ import annotations

import argparse
from typing import Any

from agent.cli.command import CommandFailed, add_command, add_output, print_answer, reported
from agent.cli.connection import ask_agent, config, etcd_version
from agent.service import install_flags

RELOAD_EXAMPLES = """\
examples:
  tortie reload
  systemctl reload tortie-agent

Wrong settings are refused with one sentence, and those in force stay. Changed ones take effect by a restart in place:
routes, pods and the peers' routes to this node stay. TORTIE_* variables come from the service's environment: they
change with systemctl restart.
"""
UNINSTALL_EXAMPLES = """\
examples:
  tortie uninstall
  tortie uninstall --pods-too --purge

Leaves the peers, stops the service, removes routes, tunnels, tables, files and the plugin, sets the sysctls as they
were, and prints the proof. The datastore keeps the Node.
"""
VERSION_EXAMPLES = """\
examples:
  tortie version
  tortie version -o json
"""
BACK_SECONDS = 20.0
POLL_SECONDS = 0.1


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    text = "the service, on this machine"
    new = add_command(subparsers, "install", text, run_install, install_flags.INSTALL_EXAMPLES)
    install_flags.add_install_flags(new)
    gone = add_command(
        subparsers, "uninstall", "everything of it off again", run_uninstall, UNINSTALL_EXAMPLES
    )
    gone.add_argument("--pods-too", action="store_true", help="attached pods lose their network")
    gone.add_argument("--purge", action="store_true", help="settings and secrets as well")
    gone.add_argument("--packaged", action="store_true", help="a package removes the files it placed")
    add_command(subparsers, "reload", "check the settings anew, and use them", run_reload, RELOAD_EXAMPLES)
    text = "of this program, the agent and etcd"
    add_output(add_command(subparsers, "version", text, run_version, VERSION_EXAMPLES))


def run_install(arguments: argparse.Namespace) -> None:
    """`tortie install`."""
    from agent.service.install import ServiceInstallFailed, install_options, install_service

    with reported(ServiceInstallFailed):
        for done in install_service(install_options(arguments)):
            print(done, flush=True)


def run_uninstall(arguments: argparse.Namespace) -> None:
    """`tortie uninstall`."""
    import asyncio
    import os

    # Everything is imported before the environment it comes from is removed.
    from agent.configuration.config import Config
    from agent.dataplane.kernel.linux import NetlinkKernel
    from agent.service.uninstall import UninstallFailed, UninstallOptions, uninstall_service

    if os.geteuid() != 0:
        raise CommandFailed("uninstalling needs root")
    try:
        settings = config(arguments)
    except CommandFailed as failure:
        print(f"the settings are wrong ({failure}): taking the default ones")
        settings = Config()
    options = UninstallOptions(arguments.pods_too, arguments.purge, arguments.packaged)

    async def run() -> None:
        kernel = NetlinkKernel(nexthop_objects=True)  # also those of an earlier setting
        try:
            async for done in uninstall_service(kernel, settings, options):
                print(done, flush=True)
        finally:
            kernel.close()

    with reported(UninstallFailed):
        asyncio.run(run())


def run_reload(arguments: argparse.Namespace) -> None:
    """`tortie reload`."""
    started = ask_agent(arguments, "status")["started"]
    changed = ask_agent(arguments, "reload")["changed"]
    if not changed:
        print("nothing differs from the settings in force")
        return
    _wait_for_another_life(arguments, started)
    print(f"in force now: {', '.join(changed)}")


def _wait_for_another_life(arguments: argparse.Namespace, started: str) -> None:
    """Until the agent serves with its new settings. Raises CommandFailed."""
    import time

    deadline = time.monotonic() + BACK_SECONDS
    while True:
        try:
            if ask_agent(arguments, "status")["started"] != started:
                return
            why = "it still runs with the old settings"
        except CommandFailed as failure:
            why = str(failure)
        if time.monotonic() > deadline:
            raise CommandFailed(f"the agent is not back after {BACK_SECONDS:g} s: {why}")
        time.sleep(POLL_SECONDS)


def run_version(arguments: argparse.Namespace) -> None:
    """`tortie version`."""
    from importlib.metadata import version

    found = {"client": version("tortie")}
    try:
        found["agent"] = ask_agent(arguments, "status")["version"]
    except CommandFailed as error:
        found["agentError"] = str(error)
    try:
        found["etcd"] = etcd_version(arguments)
    except CommandFailed as error:
        found["etcdError"] = str(error)
    print_answer(found, arguments.output, _versions_text)


def _versions_text(found: dict[str, str]) -> str:
    names = {"client": "tortie", "agent": "agent", "etcd": "etcd"}
    return "\n".join(f"{shown:8}{found.get(name) or found[f'{name}Error']}" for name, shown in names.items())
