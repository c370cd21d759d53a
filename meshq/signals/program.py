"""`meshq signals` as a program of its own, until SIGTERM."""

import asyncio
import logging
import signal

import uvloop

from meshq import logs
from meshq.adapters.clock import SystemClock
from meshq.signals.app import Ports, SignalsServer
from meshq.signals.settings import SignalsSettings

logger = logging.getLogger(__name__)


def run(settings: SignalsSettings, listen: str, ports: Ports) -> bool:
    """Returns whether it ended because it was told to. Raises BadSettings."""
    logs.configure(settings.server.log_level, settings.server.log_format)
    return uvloop.run(_run(settings, listen, ports))


async def _run(settings: SignalsSettings, listen: str, ports: Ports) -> bool:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = SignalsServer(settings, SystemClock())
    server.on_failure(stop.set)
    try:
        bound = await server.start(listen, ports)
        https = f", HTTPS on {bound.https}" if bound.https else ""
        logger.info(
            "signals of mesh %s: KEDA on %s:%d, HTTP on %d%s",
            settings.server.mesh,
            listen,
            bound.grpc,
            bound.http,
            https,
        )
        for target in settings.targets:
            logger.info("%s follows %s", target.name, target.topic)
        await stop.wait()
        logger.info("stopping")
    finally:
        await server.close()
    return not server.failed
