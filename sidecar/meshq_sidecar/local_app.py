"""The local app as the receiving side sees it: a request of the mesh becomes one to it, its answer or its failure comes back."""

from collections.abc import Callable
from functools import partial

from meshq.core.headers import carry
from meshq.core.http import Failed, Failure, Headers, HttpRequest, HttpResponse
from meshq.core.message import Request
from meshq.ports import Clock, HttpClient, Metrics
from meshq_sidecar.gate import Gate
from meshq_sidecar.identity import Sender

Done = Callable[[HttpResponse | Failed], None]


class LocalApp:
    """`timeout` in seconds. `refused` is called when the app did not take a connection: it should be probed."""

    def __init__(
        self,
        client: HttpClient,
        clock: Clock,
        metrics: Metrics,
        gate: Gate,
        token: str,
        timeout: float,
        refused: Callable[[], None],
    ) -> None:
        self._client = client
        self._clock = clock
        self._metrics = metrics
        self.gate = gate
        self._token = token.encode()
        self._timeout = timeout
        self._refused = refused

    def ask(
        self, request: Request, topic: str, sender: Sender, target: bytes, done: Done, *, result: bool = False
    ) -> None:
        """Takes a place at the gate until `done` was called, once. `topic` is what the app is told. `result`: our own sidecar
        made it of a result, so what its fields say of that is the mesh's word."""
        self.gate.enter()
        headers = self._headers(request, topic, sender)
        if result:
            headers += [field for field in request.headers if field[0].lower().startswith(b"meshq-request-")]
        outgoing = HttpRequest(request.method.encode(), target, headers, request.body)
        self._client.request(outgoing, self._timeout, partial(self._on_outcome, topic, self._clock.monotonic(), done))

    def _on_outcome(self, topic: str, started: float, done: Done, outcome: HttpResponse | Failed) -> None:
        answered = isinstance(outcome, HttpResponse)
        code = str(outcome.status) if isinstance(outcome, HttpResponse) else outcome.failure.value
        self._metrics.handled(topic, code, self._clock.monotonic() - started)
        try:
            done(outcome)
            if not answered and outcome.failure is Failure.REFUSED:  # type: ignore[union-attr]
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
