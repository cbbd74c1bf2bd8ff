"""`tortie cni install|uninstall`: the plugins and the network's configuration, where container runtimes look."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  tortie cni install
  tortie cni install --shim python --bin-dir /usr/lib/cni
"""
UNINSTALL_EXAMPLES = """\
examples:
  tortie cni uninstall
"""


def add_parsers(subparsers: Any) -> None:
    """Add this module's commands."""
    cni = subparsers.add_parser("cni", help="the plugin that container runtimes call")
    verbs = cni.add_subparsers(dest="verb", metavar="VERB", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    install = verbs.add_parser(
        "install", help="put plugins and conflist in place", epilog=EXAMPLES, formatter_class=raw
    )
    remove = verbs.add_parser(
        "uninstall",
        help="remove them; pods keep their network",
        epilog=UNINSTALL_EXAMPLES,
        formatter_class=raw,
    )
    for verb in (install, remove):
        verb.add_argument("--bin-dir", type=Path, default=Path("/opt/cni/bin"), metavar="DIR")
        verb.add_argument("--conf-dir", type=Path, default=Path("/etc/cni/net.d"), metavar="DIR")
    install.add_argument(
        "--shim", choices=("auto", "c", "python"), default="auto", help="auto: C where a compiler is"
    )
    install.add_argument("--network", default="k8s-pod-network", metavar="NAME", help="the network's name")
    install.add_argument(
        "--replace-conflist", action="store_true", help="also when somebody changed it since"
    )
    install.set_defaults(run=run_install)
    remove.set_defaults(run=run_uninstall)


def run_install(arguments: argparse.Namespace) -> None:
    """`tortie cni install`."""
    from agent.cli.connection import config
    from agent.cli.failure import CommandFailed
    from agent.cni.plugin.options import CONTAINER_ID
    from agent.cni.plugin.plugin_install import InstallFailed, PluginPaths, install

    if not CONTAINER_ID.fullmatch(arguments.network):
        raise CommandFailed(f"--network {arguments.network!r}: letters, digits, '_', '.', '-'")
    settings = config(arguments)
    paths = PluginPaths(
        arguments.bin_dir, arguments.conf_dir, settings.cni_socket, Path(settings.paths.state)
    )
    try:
        for done in install(paths, arguments.shim, arguments.network, replace=arguments.replace_conflist):
            print(done)
    except InstallFailed as error:
        raise CommandFailed(str(error)) from error


def run_uninstall(arguments: argparse.Namespace) -> None:
    """`tortie cni uninstall`."""
    from agent.cli.failure import CommandFailed
    from agent.cni.plugin.plugin_install import InstallFailed, PluginPaths, uninstall

    try:
        for done in uninstall(PluginPaths(arguments.bin_dir, arguments.conf_dir)):
            print(done)
    except InstallFailed as error:
        raise CommandFailed(str(error)) from error
