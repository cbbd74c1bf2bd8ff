"""`tortie cni install|uninstall|check`: the plugins and the network's configuration, where container runtimes look.

Promises: a fault is one sentence, and what was done until then is printed; `check` changes nothing, and its exit code
is 1 with an error among what it finds. Does not know: how files are put in place, what is right in a configuration.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agent.cli.command import CommandFailed, add_command, add_group, reported
from agent.cli.connection import config

EXAMPLES = """\
examples:
  tortie cni install
  tortie cni install --shim python --bin-dir /usr/lib/cni
"""
CHECK_EXAMPLES = """\
examples:
  tortie cni check
  tortie cni check --conf-dir /etc/cni/net.d -o json
"""
UNINSTALL_EXAMPLES = """\
examples:
  tortie cni uninstall
"""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    verbs = add_group(subparsers, "cni", "the plugin that container runtimes call")
    install = add_command(verbs, "install", "put plugins and conflist in place", run_cni_install, EXAMPLES)
    remove = add_command(
        verbs, "uninstall", "remove them; pods keep their network", run_cni_uninstall, UNINSTALL_EXAMPLES
    )
    check = add_command(
        verbs,
        "check",
        "what the networks' configurations ask for that is not done",
        run_cni_check,
        CHECK_EXAMPLES,
    )
    check.add_argument("-o", "--output", choices=("table", "json"), default="table")
    for verb in (install, remove, check):
        verb.add_argument("--conf-dir", type=Path, default=Path("/etc/cni/net.d"), metavar="DIR")
    for verb in (install, remove):
        verb.add_argument("--bin-dir", type=Path, default=Path("/opt/cni/bin"), metavar="DIR")
    install.add_argument(
        "--shim", choices=("auto", "c", "python"), default="auto", help="auto: C where a compiler is"
    )
    install.add_argument("--network", default="k8s-pod-network", metavar="NAME", help="the network's name")
    install.add_argument(
        "--replace-conflist", action="store_true", help="also when somebody changed it since"
    )


def run_cni_install(arguments: argparse.Namespace) -> None:
    """`tortie cni install`."""
    from agent.cni.plugin.options import CONTAINER_ID
    from agent.cni.plugin.plugin_install import InstallFailed, PluginPaths, install

    if not CONTAINER_ID.fullmatch(arguments.network):
        raise CommandFailed(f"--network {arguments.network!r}: letters, digits, '_', '.', '-'")
    settings = config(arguments)
    paths = PluginPaths(
        arguments.bin_dir, arguments.conf_dir, settings.cni_socket, Path(settings.paths.state)
    )
    with reported(InstallFailed):
        for done in install(paths, arguments.shim, arguments.network, replace=arguments.replace_conflist):
            print(done)


def run_cni_uninstall(arguments: argparse.Namespace) -> None:
    """`tortie cni uninstall`."""
    from agent.cni.plugin.plugin_install import InstallFailed, PluginPaths, uninstall

    with reported(InstallFailed):
        for done in uninstall(PluginPaths(arguments.bin_dir, arguments.conf_dir)):
            print(done)


def run_cni_check(arguments: argparse.Namespace) -> None:
    """`tortie cni check`."""
    import json
    import sys
    from dataclasses import asdict

    from agent.cni.plugin.network_check import Level, NetworkFinding, check_networks
    from agent.cni.plugin.plugin_install import configurations

    files, unread = configurations(arguments.conf_dir)
    found = [NetworkFinding(Level.ERROR, name, why) for name, why in unread.items()]
    found = sorted((*found, *check_networks(files)), key=lambda one: (one.level, one.where))
    if arguments.output == "json":
        print(json.dumps([{**asdict(one), "level": one.level.name.lower()} for one in found], indent=2))
    else:
        print(
            "\n".join(f"{one.level.name:<8} {one.where}: {one.what}" for one in found)
            or "everything is followed"
        )
    if any(one.level is Level.ERROR for one in found):
        sys.exit(1)
