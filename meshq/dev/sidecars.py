"""The sidecar of one unit: inside this process with the embedded broker, a process of its own with a real one."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec, Protocol

from meshq.adapters import choose
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker, EmbeddedSubscription
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.adapters.http_probe import probe
from meshq.dev.output import Output, say_logged, speaker
from meshq.dev.plan import Unit
from meshq.dev.process import Command, Guard, Kept
from meshq.ports import Clock, Delivery
from meshq.settings import Settings, load, with_instance
from meshq_sidecar.app import Sidecar

PROBE_SECONDS = 2.0

P = ParamSpec("P")


class UnitSidecar(Protocol):
    """What the runner asks of a unit's sidecar."""

    async def start(self) -> None:
        """Raises meshq_sidecar.listening.PortTaken."""

    async def fault(self) -> str:
        """Why it, or its app, is not ready; "" when all is well."""

    @property
    def at_work(self) -> int:
        """Requests at the app, as far as is known."""

    async def drain(self) -> None: ...
    async def stop(self) -> None: ...


def settings_of(unit: Unit) -> Settings:
    """Raises BadSettings."""
    settings = load({name: v for name, v in unit.sidecar_environment.items() if name != "MESHQ_INTERCEPT"})
    # Not read of the environment's list with commas, for a selector may have one.
    return replace(settings, intercept=dict(unit.intercept))


# --- inside this process ----------------------------------------------------------------------------------------------------


class Inside:
    def __init__(
        self,
        unit: Unit,
        hub: EmbeddedHub,
        registry: EmbeddedRegistryHub | None,
        store: EmbeddedStoreHub | None,
        clock: Clock,
    ) -> None:
        """`registry` and `store` None: those that the unit's settings name. Raises BadSettings."""
        settings = with_instance(settings_of(unit))
        tls = (settings.tls_ca, settings.tls_cert, settings.tls_key)
        joined = registry.connect() if registry else choose.registry(settings.registry_url, settings.mesh, clock, tls)
        kept = store.connect() if store else choose.store(settings.registry_url, settings.mesh, clock, tls)
        self._label = unit.label
        self._sidecar = Sidecar(settings, _LabelledBroker(hub, settings.service, unit.label), joined, kept, clock)

    async def start(self) -> None:
        # What it starts inherits this, and so logs under its app's name.
        speaker.set(self._label)
        await self._sidecar.start()

    async def fault(self) -> str:
        return self._sidecar.fault

    @property
    def at_work(self) -> int:
        return self._sidecar.in_flight

    async def drain(self) -> None:
        await self._sidecar.drain()

    async def stop(self) -> None:
        await self._sidecar.stop()


class _LabelledBroker(EmbeddedBroker):
    """Calls its consumers under their own name: a delivery comes in the context of whoever sent it."""

    def __init__(self, hub: EmbeddedHub, user: str, label: str) -> None:
        super().__init__(hub, user)
        self._label = label

    def subscribe(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None], *, offset: int | str | None = None
    ) -> EmbeddedSubscription:
        return super().subscribe(queue, prefetch, _spoken_by(self._label, on_delivery), offset=offset)


def _spoken_by(label: str, function: Callable[P, None]) -> Callable[P, None]:
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        token = speaker.set(label)
        try:
            function(*args, **kwargs)
        finally:
            speaker.reset(token)

    return call


# --- a process of its own ---------------------------------------------------------------------------------------------------


class Apart:
    def __init__(
        self, unit: Unit, folder: Path, environment: dict[str, str], output: Output, guard: Guard, clock: Clock
    ) -> None:
        """`environment` without settings of meshq. Raises BadSettings."""
        load(unit.sidecar_environment)
        self._admin_port = unit.admin_port
        environment = {**environment, **unit.sidecar_environment, "MESHQ_LOG_FORMAT": "json"}
        environment.setdefault("MESHQ_LOG_LEVEL", "warning")
        command = Command([sys.executable, "-m", "meshq_sidecar"], folder, environment)
        self._process = Kept(
            command,
            lambda line: say_logged(output, unit.label, line),
            lambda text, wrong: output.said(unit.label, f"sidecar: {text}", wrong),
            guard,
            clock,
        )

    async def start(self) -> None:
        self._process.start()

    async def fault(self) -> str:
        return (await probe("127.0.0.1", self._admin_port, "/readyz", PROBE_SECONDS)).detail

    @property
    def at_work(self) -> int:
        return 0

    async def drain(self) -> None:
        """Its way to stop: it drains first."""
        await self._process.terminate()

    async def stop(self) -> None:
        await self._process.kill()
        await self._process.close()
