"""The receiving half of a sidecar, put together as its app.py does it, for tests that want nothing else of it."""

from collections.abc import Callable

from meshq.core.errors import Code, Problem
from meshq.core.message import Fault, Request, Response
from meshq.core.names import parse_version
from meshq.core.policy import Policy, Retry
from meshq.ports import Broker, Clock, HttpClient, Store
from meshq_sidecar.capacity import Capacity
from meshq_sidecar.counting import WorkCounts
from meshq_sidecar.gate import Gate
from meshq_sidecar.identity import Identity
from meshq_sidecar.inbound import Inbound
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.once import OncePerKey
from meshq_sidecar.own_policy import OwnPolicy
from meshq_sidecar.settling import Settler
from meshq_sidecar.work import Work
from tests.doubles import Counted

TOPIC = "orders.v2"
WHO = Identity("orders", parse_version("2.1.0"), "i-1")
APP_TIMEOUT = 7.0
RETRY = Retry(3, (1.0, 5.0))

Stored = Callable[[Request | None], None]


class Receiver:
    """One instance, of `orders` if nothing else is said. The results of its own calls go to `results`, to be stored by the test."""

    def __init__(
        self,
        broker: Broker,
        store: Store,
        clock: Clock,
        client: HttpClient,
        *,
        identity: Identity = WHO,
        topics: tuple[str, ...] = (TOPIC,),
        concurrency: int = 2,
        prefetch: int | None = None,
        retry: Retry = RETRY,
        token: str = "",
        lease: float = 60.0,
        take_result: Callable[[Response | Fault, str, Stored], None] | None = None,
    ) -> None:
        self.policy: Policy | None = None
        """The route policy of its service."""
        self.denied: dict[str, str] = {}
        """Routing keys that may not be published, and what the broker says to that."""
        self.metrics = Counted()
        self.refused = 0
        """How often the app did not take a connection."""
        self.results: list[tuple[Response | Fault, str, Stored]] = []
        prefetch = prefetch or 4 * concurrency
        gate = Gate(concurrency)
        self.counts = WorkCounts()
        policy = OwnPolicy(lambda: self.policy, retry, proves=broker.user == identity.service)
        self.local = LocalApp(client, clock, self.metrics, gate, token, APP_TIMEOUT, self._on_refused, self.counts)
        self.once = OncePerKey(store, clock, self.metrics, str(identity), lease)
        self.settler = Settler(broker, clock, self.metrics, str(identity), lambda: self.work.check_idle(), self._denial)
        self.inbound = Inbound(
            broker,
            self.local,
            clock,
            self.metrics,
            identity,
            topics,
            prefetch,
            policy,
            self.settler,
            self.once,
        )
        self.work = Work(
            broker,
            self.local,
            clock,
            self.metrics,
            identity,
            prefetch,
            policy,
            self.settler,
            self.once,
            store,
            take_result or self._take_result,
            self.inbound.take,
            lambda: 0.0,
        )
        self.capacity = Capacity(gate, self.inbound, self.work, concurrency)

    def _denial(self, exchange: str, key: str) -> Problem | None:
        return Problem(Code.DENIED, self.denied[key]) if key in self.denied else None

    def _on_refused(self) -> None:
        self.refused += 1

    def _take_result(self, message: Response | Fault, user: str, stored: Stored) -> None:
        self.results.append((message, user, stored))

    async def close(self) -> None:
        await self.work.close()
        await self.once.close()
