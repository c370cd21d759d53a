"""One service in the mesh of a test: its sidecar, without ports, and its app, if it has handlers."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core.http import HttpRequest, HttpResponse
from meshq.core.instances import State
from meshq.ports import Clock
from meshq.sdk.mesh import Mesh
from meshq.sdk.reach import Reach
from meshq.sdk.service import Service
from meshq.settings import load
from meshq.testing.faults import Faults
from meshq.testing.memory import End, MemoryServer, NoNames
from meshq.testing.recording import RecordedBroker, Recorder
from meshq_sidecar.app import Sidecar
from meshq_sidecar.listening import Listening

DOMAIN = ".meshq-testing"
"""What the host names end with under which the SDK finds its sidecar in here."""
LEASE_MS = 10 * 365 * 24 * 3600 * 1000
"""An instance goes when the test says so, not because the clock was turned."""


class Parts:
    """What all the services of one mesh share."""

    def __init__(self, clock: Clock, passed: Callable[[], float]) -> None:
        self.clock = clock
        self.hub = EmbeddedHub(None, clock)
        self.registry = EmbeddedRegistryHub(clock, ttl_ms=LEASE_MS)
        self.store = EmbeddedStoreHub(clock)
        self.recorder = Recorder(passed)
        self.faults: defaultdict[str, Faults] = defaultdict(Faults)
        """By service."""

    async def close(self) -> None:
        await self.hub.close()
        await self.store.close()


class Unit:
    """One instance. `settings` are the sidecar's, by the names of its environment. Raises BadSettings."""

    def __init__(self, parts: Parts, name: str, version: str, instance: str, settings: Mapping[str, str]) -> None:
        self.name = name
        self.instance = instance
        self.host = instance + DOMAIN
        self.here = True
        """Its app can reach the sidecar, and is reached."""
        self.serves = False
        self._parts = parts
        self._settings = load(
            {
                **settings,
                "MESHQ_SERVICE": name,
                "MESHQ_SERVICE_VERSION": version,
                "MESHQ_INSTANCE": instance,
                "MESHQ_BROKER_URL": "embedded:",
                "MESHQ_REGISTRY_URL": "embedded:",
            }
        )
        self.broker = RecordedBroker(parts.hub, name, parts.recorder)
        self._server = MemoryServer(self._settings.max_body)
        self._sidecar = Sidecar(
            self._settings,
            self.broker,
            parts.registry.connect(),
            parts.store.connect(),
            parts.clock,
            listening=Listening(self._server, MemoryServer(1), NoNames()),
            chance=float,  # 0: delays of exactly what is said, because chance would only make tests differ
        )
        self._ends: list[End] = []
        self._starting = asyncio.Lock()
        self._started = False

    @property
    def majors(self) -> tuple[int, ...]:
        return self._settings.majors_of_link

    # --- life -----------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Idempotent."""
        async with self._starting:
            if not self._started:
                self._started = True
                await self._sidecar.start()
                await self._sidecar.pictures.asked.wait()

    async def stop(self) -> None:
        if self._started:
            await self._sidecar.stop()

    async def connect(self, protocol: asyncio.BaseProtocol) -> End:
        """An app's end of a new connection. Raises ConnectionRefusedError."""
        if not self.here:
            raise ConnectionRefusedError(f"the test has {self.name} away")
        await self.start()
        end = self._server.connect(protocol)
        self._ends = [each for each in self._ends if not each.is_closing()] + [end]
        return end

    async def reconnect(self) -> None:
        """To the broker."""
        if self._started:
            await self.broker.open()

    def break_off(self) -> None:
        """Every connection of its app is gone, as when its process was killed."""
        for each in self._ends:
            each.abort()

    def up_to_date(self) -> bool:
        """It knows of everybody what the registry knows, and the registry knows whether its app takes messages."""
        seen = self._parts.registry.snapshot()
        if not self._started:
            return True
        if self._sidecar.pictures.picture.revision != seen.revision or self.name not in seen.services:
            return False
        if not self.serves:
            return True
        there = [each for each in seen.services[self.name].instances if each.id == self.instance and each.majors]
        return any(each.state is State.READY for each in there) is self.here

    # --- its app ----------------------------------------------------------------------------------------------------------------

    def serving(self, service: Service) -> AbstractAsyncContextManager[None]:
        """The service, served by this sidecar, meeting the faults that the test gives it."""
        faults = self._parts.faults[self.name]
        respond = service.respond

        async def meeting_faults(request: HttpRequest) -> HttpResponse:
            self._parts.recorder.note_attempt(request)
            return await faults.meet(request, respond, self.break_off)

        vars(service)["respond"] = meeting_faults
        return service.serving()

    @staticmethod
    def has(service: Service) -> bool:
        """It is served in some mesh."""
        return "respond" in vars(service)

    @staticmethod
    def let_go(service: Service) -> None:
        vars(service).pop("respond", None)

    def lead_here(self, mesh: Mesh) -> Callable[[], None]:
        """Have it use this sidecar. Returns what undoes that."""
        own: Any = mesh
        before = own._reach
        own._reach = Reach(self.host, health_timeout=before.health_timeout)

        def undo() -> None:
            own._reach = before

        return undo
