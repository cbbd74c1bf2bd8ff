"""The agent's process: reads the settings, runs an agent until it is told to stop, begins again when asked to.

Promises: one process, one event loop. Stopping leaves the kernel as it is.
Does not know: what an agent is made of.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from agent.clock import SystemClock
from agent.configuration.config import Config, ConfigError
from agent.durable_files import sweep
from agent.logging import log as logging
from agent.logging.log_stream import LogStream
from agent.netlink.kernel_errors import KernelError
from agent.node_agent import Agent
from agent.service.start import (
    agent_parser,
    checked_settings,
    spare_the_collector,
    take_agent_lock,
)

log = structlog.get_logger()


async def _until_signalled(config: Config, read: Callable[[], Config], log_stream: LogStream) -> bool:
    """Serve until told to stop; whether the process is to start over with other settings."""
    loop = asyncio.get_running_loop()
    main_task = asyncio.current_task()
    assert main_task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main_task.cancel)

    agent = Agent(config, read, main_task.cancel, log_stream)
    loop.set_exception_handler(agent.parts.callback_failed)

    def hang_up() -> None:
        with suppress(ValueError):  # said in the log and in the status
            agent.reload.reload()

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    with suppress(asyncio.CancelledError):
        await agent.run()
    return agent.reload.wanted


def main() -> None:
    """`tortie-agent`."""
    faulthandler.enable()  # the watchdog's SIGABRT says in the journal where the loop hung
    arguments = agent_parser().parse_args()
    try:
        config = checked_settings(arguments)
        if os.geteuid() != 0:
            raise ConfigError("tortie-agent programs the kernel: run it as root")
        for directory in (config.paths.run, config.paths.state):
            Path(directory).mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = take_agent_lock(Path(config.paths.run))
        sweep(Path(config.paths.state))  # with the lock held nobody else writes there
    except (ConfigError, OSError) as error:
        sys.exit(f"tortie-agent: {error}")
    spare_the_collector()
    stream = logging.configure(config.log.level, config.log.format, SystemClock().now)
    try:
        again = asyncio.run(_until_signalled(config, lambda: checked_settings(arguments), stream))
    except (ConfigError, KernelError, OSError) as error:  # before the first part runs: nothing is half done
        sys.exit(f"tortie-agent: {error}")
    os.close(lock)
    if again:
        # The same process, so systemd's main PID and watchdog stay; every descriptor of this life closes (PEP 446).
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    log.info("agent.stopped", routes="left as they are")


if __name__ == "__main__":
    main()
