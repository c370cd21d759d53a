"""The local app as the receiving side sees it: a request of the mesh becomes one to it, its answer or its failure comes back."""

from collections.abc import Callable
from functools import partial

from meshq.core.headers import carry
from meshq.core.http import Failed, Failure, Headers, HttpRequest, HttpResponse
from meshq.core.message import Request
from meshq.ports import Clock, HttpClient, Metrics
from meshq_sidecar.counting import WorkCounts
from meshq_sidecar.gate import Gate
from meshq_sidecar.identity import Sender

Done = Callable[[HttpResponse | Failed], None]


class LocalApp:
    """`timeout` in seconds. `refused` is called when the app did not take a connection: it should be probed. What the app took goes
    into `counts`."""

    def __init__(
        self,
        client: HttpClient,
        clock: Clock,
        metrics: Metrics,
        gate: Gate,
        token: str,
        timeout: float,
        refused: Callable[[], None],
        counts: WorkCounts,
    ) -> None:
        self._client = client
        self._clock = clock
        self._metrics = metrics
        self.gate = gate
        self._token = token.encode()
        self._timeout = timeout
        self._refused = refused
        self.counts = counts

    def ask(
        self,
        request: Request,
        topic: str,
        sender: Sender,
        target: bytes,
        done: Done,
        *,
        event: str = "",
        result: bool = False,
    ) -> None:
        """Takes a place at the gate until `done` was called, once. `topic` is the service's; `event`: the app is told of this one
        instead. `result`: our own sidecar made it of a result, so what its fields say of that is the mesh's word."""
        self.gate.enter()
        told = event or topic
        headers = self._headers(request, told, sender)
        if result:
            headers += [field for field in request.headers if field[0].lower().startswith(b"meshq-request-")]
        outgoing = HttpRequest(request.method.encode(), target, headers, request.body)
        answered = partial(self._on_outcome, topic, told, self._clock.monotonic(), done)
        self._client.request(outgoing, self._timeout, answered)

    def _on_outcome(self, topic: str, told: str, started: float, done: Done, outcome: HttpResponse | Failed) -> None:
        seconds = self._clock.monotonic() - started
        refused = False
        if isinstance(outcome, HttpResponse):
            code = str(outcome.status)
        else:
            code = outcome.failure.value
            refused = outcome.failure is Failure.REFUSED
        self._metrics.handled(told, code, seconds)
        if not refused:
            self.counts.took(topic, seconds)
        try:
            done(outcome)
            if refused:
                self._refused()
        finally:
            # Its place is free after that, not before: what follows from it waits its turn as everything does.
            self.gate.leave()
            self.gate.fill()

    def _headers(self, request: Request, topic: str, sender: Sender) -> Headers:
        added = [
            (b"Meshq-Message-Id", request.id.encode()),
            (b"Meshq-Attempt", b"%d" % request.attempt),
            (b"Meshq-Topic", topic.encode()),
        ]
        if sender.name:
            added.append((b"Meshq-Caller" if sender.proved else b"Meshq-Caller-Claimed", sender.name.encode()))
        if request.deadline_ms is not None:
            added.append((b"Meshq-Deadline", b"%d" % request.deadline_ms))
        if request.mirrored:
            added.append((b"Meshq-Mirror", b"1"))
        if request.key:
            added.append((b"Meshq-Key", request.key.encode()))
        # The sender's sidecar has done this; but here stands what anyone wrote who may publish to us.
        carried = carry(request.headers)
        if b"idempotency-key" not in carried.noted:
            added.append((b"Idempotency-Key", request.id.encode()))
        if self._token:
            added.append((b"Meshq-Token", self._token))
        return carried.headers + added
