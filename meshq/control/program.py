"""The control API as a program of its own: adapters by its settings, until SIGTERM."""

import asyncio
import ipaddress
import logging
import os
import signal
from collections.abc import Sequence

import uvloop

from meshq import logs
from meshq.adapters.clock import SystemClock
from meshq.control.access import Access
from meshq.control.app import Control, mesh_at
from meshq.control.settings import ControlSettings
from meshq.control.tokens import Tokens
from meshq.settings import BadSettings, Fault

logger = logging.getLogger(__name__)


def run(settings: ControlSettings, listen: str, port: int, hosts: Sequence[str]) -> None:
    """Serve on `listen` and `port`, also for those who call this machine one of `hosts`. Raises BadSettings."""
    logs.configure(settings.server.log_level, settings.server.log_format)
    uvloop.run(_run(settings, listen, port, hosts))


async def _run(given: ControlSettings, listen: str, port: int, hosts: Sequence[str]) -> None:
    settings = given.server
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    beyond = is_beyond_loopback(listen)
    access = Access(settings.domain, beyond, frozenset(host.lower() for host in hosts), settings.api_token)
    mesh = mesh_at(settings.broker_url, settings.registry_url, settings.mesh, os.environ, SystemClock())
    tokens = Tokens(settings.mesh, given.secrets)
    control = Control(mesh, lambda: {"mesh": settings.mesh}, tokens=tokens, access=access)
    try:
        bound = await control.start(port, listen)
    except OSError as error:
        await control.close()
        raise BadSettings([Fault("--port", f"{listen} port {port}: {error.strerror or error}")]) from error
    where = f"[{listen}]" if ":" in listen else listen
    logger.info("control API of mesh %s on http://%s:%d", settings.mesh, where, bound)
    if beyond and not settings.api_token:
        logger.warning("it listens beyond this machine without MESHQ_API_TOKEN: it can only be looked at")
    if not tokens.configured:
        logger.info("no MESHQ_CONTROL_SECRET: containers without a sidecar cannot register")
    await stop.wait()
    logger.info("stopping")
    await control.close()


def is_beyond_loopback(listen: str) -> bool:
    """Whether others than this machine can reach that address."""
    return listen != "localhost" and not ipaddress.ip_address(listen).is_loopback
