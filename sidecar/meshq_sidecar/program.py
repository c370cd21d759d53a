"""One sidecar as a program of its own: adapters by its settings, until SIGTERM."""

import asyncio
import gc
import logging
import signal
import sys

import uvloop

from meshq import logs
from meshq.adapters import choose
from meshq.adapters.clock import SystemClock
from meshq.adapters.spool import SpoolUnusable
from meshq.settings import EXIT_BAD_SETTINGS, Settings
from meshq_sidecar.app import Sidecar
from meshq_sidecar.listening import PortTaken

logger = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Returns the exit code."""
    logs.configure(settings.log_level, settings.log_format)
    # What is here now stays: modules and their constants. Without this the collector walks over all of it again and again,
    # because a message makes more containers than it unmakes until its reply comes.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    return uvloop.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    clock = SystemClock()
    tls = (settings.tls_ca, settings.tls_cert, settings.tls_key)
    try:
        name = f"meshq {settings.service} {settings.instance}"
        broker = choose.broker(settings.broker_url, name, settings.service, clock, tls)
        registry = choose.registry(settings.registry_url, settings.mesh, clock, tls)
        store = choose.store(settings.registry_url, settings.mesh, clock, tls)
        sidecar = Sidecar(settings, broker, registry, store, clock)
    except (ValueError, OSError, SpoolUnusable) as error:
        print(f"meshq-sidecar: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    try:
        await sidecar.start()
    except PortTaken as taken:
        print(f"meshq-sidecar: {taken}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    await stop.wait()
    logger.info("stopping: draining first")
    await sidecar.drain()
    await sidecar.stop()
    return 0
