"""`TestMesh` for tests that are not async. No thread: the event loop runs whenever the test asks something of the mesh."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Self, TypeVar

from meshq.sdk.service import Service
from meshq.sdk.sync import SyncMesh
from meshq.testing.assertions import Assertions
from meshq.testing.mesh import TestMesh
from meshq.testing.messages import Dead, Message

T = TypeVar("T")


class SyncTestMesh(Assertions):
    """Methods are those of TestMesh, which is `mesh`; those that are async there block here.

    Example:
        with SyncTestMesh() as mesh:
            mesh.serve(orders)
            receipt = mesh.client("shop").call("orders", "POST /create", Order(item="tea"), returns=Receipt)
    """

    __test__ = False
    """To pytest, which would take it for a class of tests by its name."""

    def __init__(self, *, patience: float = 10.0) -> None:
        self.mesh = TestMesh(patience=patience)
        self._runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        self.fail = self.mesh.fail
        self.break_off = self.mesh.break_off
        self.slow = self.mesh.slow
        self.heal = self.mesh.heal
        self._thread = threading.current_thread()

    def __enter__(self) -> Self:
        """Raises as TestMesh.__aenter__."""
        self._runner.__enter__()
        try:
            self._runner.run(self.mesh.__aenter__())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._runner.run(self.mesh.__aexit__(kind, error, trace))
        finally:
            self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises, on the mesh's event loop. Raises StandsStill."""
        if threading.current_thread() is self._thread:
            return self._runner.run(self.mesh.watch(work))
        return asyncio.run_coroutine_threadsafe(work, self._runner.get_loop()).result()

    @property
    def now(self) -> float:
        """As TestMesh.now."""
        return self.mesh.now

    def client(self, name: str, *, settings: Mapping[str, str] | None = None) -> SyncMesh:
        """As TestMesh.client."""
        return _Client(self, name, settings)

    def serve(self, service: Service, *, settings: Mapping[str, str] | None = None) -> None:
        """As TestMesh.serve."""
        self.run(self.mesh.serve(service, settings=settings))

    def settle(self) -> None:
        """As TestMesh.settle."""
        self.run(self.mesh.settle())

    def advance(self, seconds: float) -> None:
        """As TestMesh.advance."""
        self.run(self.mesh.advance(seconds))

    def away(self, service: str) -> None:
        """As TestMesh.away."""
        self.run(self.mesh.away(service))

    def back(self, service: str) -> None:
        """As TestMesh.back."""
        self.run(self.mesh.back(service))

    def broker_away(self) -> None:
        """As TestMesh.broker_away."""
        self.run(self.mesh.broker_away())

    def broker_back(self) -> None:
        """As TestMesh.broker_back."""
        self.run(self.mesh.broker_back())

    def sent(self, service: str, operation: str | None = None) -> list[Message]:
        """As TestMesh.sent."""
        return self.mesh.sent(service, operation)

    def published(self, event: str) -> list[Message]:
        """As TestMesh.published."""
        return self.mesh.published(event)

    def dead(self, service: str) -> list[Dead]:
        """As TestMesh.dead."""
        return self.mesh.dead(service)


class _Client(SyncMesh):
    """One that runs on the loop of the test's mesh instead of a thread of its own."""

    def __init__(self, owner: SyncTestMesh, name: str, settings: Mapping[str, str] | None) -> None:
        super().__init__()
        self._owner = owner
        self.mesh = owner.mesh.client(name, settings=settings)

    def close(self) -> None:
        """Close the connections. A later call begins anew."""
        self._run(self.mesh.close)

    def _run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._owner.run(make())
