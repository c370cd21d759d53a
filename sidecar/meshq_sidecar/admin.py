"""Port 3601: `/livez`, `/readyz`, `/metrics`. Read-only, on all addresses, for kubelets and Prometheus."""

import json
from collections.abc import Callable

from meshq.core.http import HttpResponse
from meshq.ports import Exchange

Checks = Callable[[], dict[str, str]]
"""Name of a check -> what is wrong, "" when nothing is."""


class Admin:
    def __init__(self, checks: Checks, metrics: Callable[[], bytes], metrics_type: str) -> None:
        self._checks = checks
        self._metrics = metrics
        self._metrics_type = metrics_type.encode()

    def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.target.partition(b"?")[0]
        if path not in (b"/livez", b"/readyz", b"/metrics"):
            exchange.respond(_text(404, b"here are /livez, /readyz and /metrics\n"))
        elif request.method not in (b"GET", b"HEAD"):
            response = _text(405, b"read-only\n")
            response.headers.append((b"Allow", b"GET, HEAD"))
            exchange.respond(response)
        elif path == b"/livez":
            exchange.respond(_text(200, b"ok\n"))
        elif path == b"/readyz":
            exchange.respond(self._readyz())
        else:
            exchange.respond(HttpResponse(200, [(b"Content-Type", self._metrics_type)], self._metrics()))

    def _readyz(self) -> HttpResponse:
        checks = self._checks()
        ready = not any(checks.values())
        body = {"ready": ready, "checks": {name: fault or "ok" for name, fault in checks.items()}}
        return HttpResponse(
            200 if ready else 503, [(b"Content-Type", b"application/json")], json.dumps(body, indent=1).encode() + b"\n"
        )


def _text(status: int, body: bytes) -> HttpResponse:
    return HttpResponse(status, [(b"Content-Type", b"text/plain; charset=utf-8")], body)
