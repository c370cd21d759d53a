"""Puts the control API together: adapters by URL, one server on loopback."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meshq import __version__
from meshq.adapters import choose
from meshq.adapters.http_server import Server
from meshq.adapters.metrics import PrometheusMetrics
from meshq.control import DOMAIN, SERVICE
from meshq.control.api import Api
from meshq.control.mesh import ListQueues, Mesh
from meshq.ports import Clock

HOST = "127.0.0.1"


def mesh_at(broker_url: str, registry_url: str, name: str, environment: Mapping[str, str], clock: Clock) -> Mesh:
    """A Mesh on real servers; "" for one that is not known. `environment` may name the management API and TLS files. Raises
    ValueError for a URL that makes no sense, OSError for a certificate that cannot be read."""
    ca, cert, key = (_file(environment.get(f"MESHQ_TLS_{part}")) for part in ("CA", "CERT", "KEY"))
    broker = choose.broker(broker_url, "meshq control", SERVICE, clock, (ca, cert, key)) if broker_url else None
    registry = choose.registry(registry_url, name, clock) if registry_url else None
    list_queues = management(broker_url, environment.get("MESHQ_MANAGEMENT_URL", ""), clock) if broker_url else None
    return Mesh(SERVICE, DOMAIN, broker, registry, clock, PrometheusMetrics(), list_queues)


def management(broker_url: str, management_url: str, clock: Clock) -> ListQueues:
    from meshq.adapters.rabbit_stats import RabbitStats

    return RabbitStats(broker_url, management_url, clock).queues


def _file(path: str | None) -> Path | None:
    return Path(path) if path else None


class Control:
    """The server of the control API over `mesh`. `about` adds to `/v1/status`."""

    def __init__(self, mesh: Mesh, about: Callable[[], dict[str, Any]]) -> None:
        self._mesh = mesh
        self._api = Api(mesh, DOMAIN, lambda: {"meshq": __version__, **about()})
        self._server = Server()

    async def start(self, port: int) -> int:
        """Returns the port, which for 0 is a free one. Raises OSError when it is taken."""
        port = await self._server.listen(HOST, port, self._api.handle)
        await self._mesh.open()
        return port

    async def close(self) -> None:
        await self._server.close(0.5)
        await self._api.close()
        await self._mesh.close()
