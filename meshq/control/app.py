"""Puts the control API together: adapters by URL, one server."""

from collections.abc import Callable, Mapping
from typing import Any

from meshq import __version__
from meshq.adapters import choose
from meshq.adapters.http_server import Server
from meshq.adapters.metrics import PrometheusMetrics
from meshq.control import DOMAIN, SERVICE
from meshq.control.access import Access
from meshq.control.api import Api
from meshq.control.mesh import ListQueues, Mesh
from meshq.control.tokens import Tokens
from meshq.ports import Broker, Clock, Registry
from meshq.settings import BadSettings, Fault
from meshq.settings_servers import tls_files
from meshq.signals.on_demand import OnDemand
from meshq.signals.sampler import Sampler

HOST = "127.0.0.1"


def mesh_at(broker_url: str, registry_url: str, name: str, environment: Mapping[str, str], clock: Clock) -> Mesh:
    """A Mesh on real servers; "" for one that is not known. `environment` may name the management API, TLS files and the domain.
    Raises BadSettings with everything that makes no sense."""
    tls = tls_files(environment)
    faults: list[Fault] = []
    broker: Broker | None = None
    registry: Registry | None = None
    list_queues: ListQueues | None = None
    if broker_url:
        try:
            broker = choose.broker(broker_url, "meshq control", SERVICE, clock, tls)
        except (ValueError, OSError) as error:
            faults.append(Fault("MESHQ_BROKER_URL", str(error)))
        else:
            try:
                list_queues = management(broker_url, environment.get("MESHQ_MANAGEMENT_URL", ""), clock)
            except ValueError as error:
                faults.append(Fault("MESHQ_MANAGEMENT_URL", str(error)))
    if registry_url:
        try:
            registry = choose.registry(registry_url, name, clock, tls)
        except (ValueError, OSError) as error:
            faults.append(Fault("MESHQ_REGISTRY_URL", str(error)))
    if faults:
        raise BadSettings(faults)
    domain = environment.get("MESHQ_DOMAIN") or DOMAIN
    scale = None
    if list_queues is not None and registry is not None:
        scale = OnDemand(Sampler(list_queues, registry, clock), clock)
    return Mesh(SERVICE, domain, broker, registry, clock, PrometheusMetrics(), list_queues, scale)


def management(broker_url: str, management_url: str, clock: Clock) -> ListQueues:
    from meshq.adapters.rabbit_stats import RabbitStats

    return RabbitStats(broker_url, management_url, clock).queues


class Control:
    """The server of the control API over `mesh`. `about` adds to `/v1/status`."""

    def __init__(
        self,
        mesh: Mesh,
        about: Callable[[], dict[str, Any]],
        *,
        tokens: Tokens | None = None,
        access: Access | None = None,
    ) -> None:
        self._mesh = mesh
        self._api = Api(mesh, access or Access(DOMAIN), tokens, lambda: {"meshq": __version__, **about()})
        self._server = Server()

    async def start(self, port: int, host: str = HOST) -> int:
        """Returns the port, which for 0 is a free one. Raises OSError when it is taken."""
        port = await self._server.listen(host, port, self._api.handle)
        await self._mesh.open()
        return port

    async def close(self) -> None:
        await self._server.close(0.5)
        await self._api.close()
        await self._mesh.close()
