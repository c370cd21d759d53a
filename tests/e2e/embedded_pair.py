"""Two sidecars on the embedded broker in one process: `python -m tests.e2e.embedded_pair`.

The settings are in the environment as for two sidecars, those of the called one with CALLED_ before their names.
"""

import asyncio
import os
import signal
from collections.abc import Mapping

import uvloop

from meshq import logs
from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.settings import load, with_instance
from meshq_sidecar.app import Sidecar

CALLED = "CALLED_"


async def run(environments: list[Mapping[str, str]]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clock = SystemClock()
    broker, registry, store = EmbeddedHub(None, clock), EmbeddedRegistryHub(clock), EmbeddedStoreHub(clock)
    sidecars = []
    for environment in environments:
        settings = with_instance(load(environment))
        logs.configure(settings.log_level, settings.log_format)
        sidecar = Sidecar(settings, broker.connect(settings.service), registry.connect(), store.connect(), clock)
        await sidecar.start()
        sidecars.append(sidecar)
    await stop.wait()
    for sidecar in sidecars:
        await sidecar.stop()
    await broker.close()


if __name__ == "__main__":
    called = {name.removeprefix(CALLED): value for name, value in os.environ.items() if name.startswith(CALLED)}
    uvloop.run(run([called, dict(os.environ)]))
