"""`meshq-sidecar`: settings from the environment, one sidecar, until SIGTERM."""

import asyncio
import logging
import os
import signal
import sys

import uvloop

from meshq import logs
from meshq.adapters import choose
from meshq.adapters.clock import SystemClock
from meshq.settings import EXIT_BAD_SETTINGS, BadSettings, Settings, load_apart, with_instance
from meshq_sidecar.app import PortTaken, Sidecar

logger = logging.getLogger(__name__)


def main() -> None:
    """The console script. Exits with 0 after a drain, with 64 for settings that cannot be."""
    try:
        settings = with_instance(load_apart(os.environ))
    except BadSettings as bad:
        for fault in bad.faults:
            print(f"meshq-sidecar: {fault}", file=sys.stderr)
        sys.exit(EXIT_BAD_SETTINGS)
    logs.configure(settings.log_level, settings.log_format)
    sys.exit(uvloop.run(run(settings)))


async def run(settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    clock = SystemClock()
    tls = (settings.tls_ca, settings.tls_cert, settings.tls_key)
    try:
        name = f"meshq {settings.service} {settings.instance}"
        broker = choose.broker(settings.broker_url, name, settings.service, clock, tls)
        registry = choose.registry(settings.registry_url, settings.mesh, clock)
    except (ValueError, OSError) as error:
        print(f"meshq-sidecar: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    sidecar = Sidecar(settings, broker, registry, clock)
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


if __name__ == "__main__":
    main()
