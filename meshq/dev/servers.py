"""The broker and the registry of a run: embedded in this process, or those that mesh.yaml names."""

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from meshq.adapters import choose
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.adapters.metrics import PrometheusMetrics
from meshq.control import DOMAIN, SERVICE
from meshq.control.app import management, mesh_at
from meshq.control.mesh import ListQueues, Mesh
from meshq.core.scaling_values import EVERY
from meshq.dev.output import Output
from meshq.dev.plan import Plan, Unit
from meshq.dev.process import Guard
from meshq.dev.sidecars import Apart, Inside, UnitSidecar, settings_of
from meshq.ports import Broker, Clock, QueueStats, Registry
from meshq.signals.on_demand import OnDemand
from meshq.signals.sampler import Sampler

AT_ONCE = 1.0
"""Seconds between looks at queues of this process, which have their figures at any moment."""


class Servers(NamedTuple):
    mesh: Mesh
    """As the control API sees it."""
    make_sidecar: Callable[[Unit], UnitSidecar]
    """Raises meshq.settings.BadSettings, ValueError, OSError."""
    broker: Broker
    """The runner's own connections, not open yet; so is `registry`."""
    registry: Registry
    list_queues: ListQueues
    count_every: float
    """Seconds after which there are new figures of queues."""


def embedded(plan: Plan, folder: Path, clock: Clock, stack: AsyncExitStack) -> Servers:
    """They live in this process, their files in `folder`, until `stack` is closed. Raises meshq.adapters.store.StoreUnusable,
    ValueError, OSError."""
    hub = EmbeddedHub(folder / "broker.db", clock)
    stack.push_async_callback(hub.close)
    known = EmbeddedRegistryHub(clock, folder / "registry.json") if plan.registry == "embedded:" else None
    store = None
    if known is not None:
        store = EmbeddedStoreHub(clock, folder / "store.db")
        stack.push_async_callback(store.close)

    def connect() -> Registry:
        return known.connect() if known else choose.registry(plan.registry, plan.mesh, clock)

    async def list_queues() -> list[QueueStats]:
        return hub.stats(hub.queue_names)

    registry = connect()
    scale = OnDemand(Sampler(list_queues, registry, clock, every=AT_ONCE), clock)
    mesh = Mesh(SERVICE, DOMAIN, hub.connect(SERVICE), registry, clock, PrometheusMetrics(), list_queues, scale)
    make = partial(Inside, hub=hub, registry=known, store=store, clock=clock)
    return Servers(mesh, make, hub.connect(SERVICE), connect(), list_queues, AT_ONCE)


def apart(plan: Plan, here: Path, output: Output, guard: Guard, clock: Clock) -> Servers:
    """They are somewhere; each sidecar is a process, started in `here`. Raises meshq.settings.BadSettings, ValueError, OSError."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MESHQ_")}
    settings = settings_of(plan.units[0])
    tls = (settings.tls_ca, settings.tls_cert, settings.tls_key)
    return Servers(
        mesh_at(plan.broker, plan.registry, plan.mesh, os.environ, clock),
        lambda unit: Apart(unit, here, plain, output, guard, clock),
        choose.broker(plan.broker, "meshq dev", SERVICE, clock, tls),
        choose.registry(plan.registry, plan.mesh, clock, tls),
        management(plan.broker, os.environ.get("MESHQ_MANAGEMENT_URL", ""), clock),
        EVERY,
    )
