"""Describes the machine that a run was made on, for whoever reads the figures later."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

PACKAGES = ("bird2", "frr", "gobgpd", "containernetworking-plugins", "iperf3", "etcd-server")


def describe() -> dict[str, str]:
    """Processor, kernel, versions, and how busy the machine was when the run began."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    versions = {}
    for package in PACKAGES:
        asked = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False
        )
        versions[package] = asked.stdout or "absent"
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load at the start": f"{os.getloadavg()[0]:.2f}",
        **versions,
    }
