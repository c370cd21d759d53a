"""A broker that says what the test wants: for outcomes that a real one has rarely, and in no order that a test could choose."""

from collections.abc import Callable, Sequence

from meshq.ports import BrokerState, Publication, Published, QueueStats


class ToldBroker:
    """As much of ports.Broker as senders of durable messages use."""

    def __init__(self) -> None:
        self.state = BrokerState(True, True, "")
        self.asked: list[tuple[Publication, Callable[[Published], None]]] = []
        self.at_once: Published | None = None
        self.reply_to = "checkout.c-1.epoch"
        self._on_state: list[Callable[[BrokerState], None]] = []

    def publish(self, publication: Publication, done: Callable[[Published], None]) -> None:
        if not self.state.publishing:
            done(Published.AWAY)
        elif self.at_once is not None:
            done(self.at_once)
        else:
            self.asked.append((publication, done))

    def on_state(self, callback: Callable[[BrokerState], None]) -> None:
        self._on_state.append(callback)

    def tell(self, publishing: bool, fault: str = "") -> None:
        self.state = BrokerState(publishing, publishing, fault)
        for callback in self._on_state:
            callback(self.state)

    def say(self, outcome: Published) -> None:
        self.asked.pop(0)[1](outcome)

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        return []
