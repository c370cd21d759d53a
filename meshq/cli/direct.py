"""Reaching a mesh through its broker and registry, by the code of the control API."""

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from meshq.adapters.clock import SystemClock
from meshq.cli.reach import SECONDS, Away, checked, get
from meshq.control import DOMAIN
from meshq.control.access import Access
from meshq.control.api import Api
from meshq.control.app import mesh_at
from meshq.control.mesh import Mesh
from meshq.control.unreachable import Unreachable
from meshq.core.callreq import address_of
from meshq.core.errors import Refused
from meshq.core.events import EventAddress
from meshq.core.http import HttpRequest, HttpResponse

T = TypeVar("T")


class Direct:
    """cli.reach.Reach. Raises BadSettings for what makes no sense."""

    def __init__(self, broker: str, registry: str, environment: Mapping[str, str]) -> None:
        # What went wrong is said once, by the answer.
        self._levels = {name: logging.getLogger(name).level for name in ("meshq", "pika")}
        for name in self._levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._runner = asyncio.Runner()
        try:
            self._mesh = self._runner.run(self._open(broker, registry, environment))
        except BaseException:
            self._runner.close()
            self._speak_again()
            raise

    async def _open(self, broker: str, registry: str, environment: Mapping[str, str]) -> Mesh:
        mesh = mesh_at(broker, registry, environment.get("MESHQ_MESH") or "default", environment, SystemClock())
        self._api = Api(mesh, Access(DOMAIN))
        await mesh.open()
        return mesh

    def get(self, path: str, query: Mapping[str, str]) -> Any:
        return json.loads(self.ask(get(path, query), SECONDS).body)

    def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        try:
            return checked(self._runner.run(asyncio.wait_for(self._api.answer(request), timeout)), "")
        except TimeoutError as error:
            raise Away(f"broker and registry did not answer within {timeout:g} s: try again") from error

    def call(self, request: HttpRequest, address: str, timeout: float) -> HttpResponse:
        try:
            return self._run(self._mesh.call(request, address_of(address), request.target))
        except Refused as refused:
            return refused.problem.as_response()

    def publish(self, request: HttpRequest, event: EventAddress) -> HttpResponse:
        return self._run(self._mesh.publish(request._replace(target=f"/v1/publish/{event}".encode())))

    def wait(self, seconds: float) -> None:
        self._runner.run(asyncio.sleep(seconds))  # what keeps the connections alive goes on

    def close(self) -> None:
        self._runner.run(self._api.close())
        self._runner.run(self._mesh.close())
        self._runner.close()
        self._speak_again()

    def _speak_again(self) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except Unreachable as fault:
            raise Away(str(fault)) from fault
