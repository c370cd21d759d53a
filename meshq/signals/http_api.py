"""The HTTP side of `meshq signals` (port 3592), read-only.

GET /livez  /metrics
GET /readyz                      and whether this replica leads (null: nobody does), and who does (null: not known)
GET /v1/scale                    `meshq scale status` of every topic
GET /v1/scale/<service>          of one service, each major with what it was decided by
GET /apis...                     as meshq.signals.external_metrics says
"""

import json
from collections.abc import Callable
from urllib.parse import unquote

from meshq.core.answers import as_json, method_not_allowed, no_such_path
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpRequest, HttpResponse
from meshq.ports import Exchange
from meshq.signals import external_metrics, views
from meshq.signals.figures import Signals
from meshq.signals.known import why_missing

SCALE = "/v1/scale"
HERE = "here are /v1/scale, /v1/scale/<service>, /metrics, /livez, /readyz and /apis/external.metrics.k8s.io/v1beta1"


class HttpApi:
    """`metrics` makes the text of `/metrics`."""

    def __init__(self, signals: Signals, metrics: Callable[[], bytes], metrics_type: str) -> None:
        self._signals = signals
        self._metrics = metrics
        self._metrics_type = metrics_type.encode()
        self._was_ready = False

    def handle(self, exchange: Exchange) -> None:
        exchange.respond(self._answer(exchange.request))

    def _answer(self, request: HttpRequest) -> HttpResponse:
        path = request.target.decode("latin-1").partition("?")[0]
        if external_metrics.is_ours(path):
            return external_metrics.answer(self._signals, request)
        answer = self._found(path)
        if answer is None:
            return no_such_path(HERE)
        if request.method not in external_metrics.READS:
            return method_not_allowed(b"GET, HEAD", "read-only")
        return answer()

    def _found(self, path: str) -> Callable[[], HttpResponse] | None:
        if path.startswith(f"{SCALE}/"):
            return lambda: self._service(unquote(path.removeprefix(f"{SCALE}/")))
        return {
            SCALE: self._scale,
            "/metrics": lambda: HttpResponse(200, [(b"Content-Type", self._metrics_type)], self._metrics()),
            "/livez": lambda: HttpResponse(200, [(b"Content-Type", b"text/plain; charset=utf-8")], b"ok\n"),
            "/readyz": self._readyz,
        }.get(path)

    def _scale(self) -> HttpResponse:
        found = self._signals.all()
        if not found and self._signals.fault:
            return Problem(Code.UNAVAILABLE, self._signals.fault).as_response()
        return as_json([views.status(signal) for signal in found])

    def _service(self, service: str) -> HttpResponse:
        found = self._signals.of_service(service)
        if not found:
            code = Code.UNAVAILABLE if self._signals.fault else Code.UNKNOWN_SERVICE
            return Problem(code, why_missing(self._signals, service[:60], None)).as_response()
        return as_json([views.explain(signal) for signal in found])

    def _readyz(self) -> HttpResponse:
        """From the first figures on it stays ready: one that answers that nothing is known is better than none, for an APIService
        without anybody behind it stops more than scaling (namespaces can't be deleted then)."""
        fault = self._signals.fault
        self._was_ready = self._was_ready or not fault or bool(self._signals.all())
        body = {
            "ready": self._was_ready,
            "checks": {"figures": fault or "ok"},
            "leading": self._signals.leading,
            "leader": self._signals.leader or None,
        }
        data = json.dumps(body, indent=1).encode() + b"\n"
        return HttpResponse(200 if self._was_ready else 503, [(b"Content-Type", b"application/json")], data)
