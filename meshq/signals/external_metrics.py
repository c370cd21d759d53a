"""The Kubernetes External Metrics API: what a HorizontalPodAutoscaler without KEDA asks, through the kube-apiserver.

GET /apis  /apis/<group>  /apis/<group>/v1beta1                                      what there is
GET /apis/<group>/v1beta1/namespaces/<namespace>/<metric>?labelSelector=...          METRICS of the topics selected

A mesh knows no namespaces: every one sees all topics. An HPA adds up what it gets, so that one topic whose figure is stale or not known
makes the whole answer a 503, on which it leaves the replicas as they are; a sum without it would be too low.
"""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from meshq.core.answers import as_json
from meshq.core.http import HttpRequest, HttpResponse
from meshq.signals.figures import Signal, Signals
from meshq.signals.gauges import LABELS, labels
from meshq.signals.known import ARRIVAL_RATE, OLDEST_AGE, desired, term, why_unknown
from meshq.signals.labels import matches, parse_selector

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
GROUP_VERSION = f"{GROUP}/{VERSION}"
PATHS = ("/apis", "/openapi")
"""What a kube-apiserver asks of an API behind it is below these."""
READS = (b"GET", b"HEAD")

_BASE = f"/apis/{GROUP_VERSION}"
_NAMESPACES = f"{_BASE}/namespaces/"
_KIND = "ExternalMetricValueList"

METRICS: dict[str, Callable[[Signal], float | None]] = {
    "meshq-desired-replicas": desired,
    "meshq-waiting-messages": lambda signal: signal.sample.waiting,
    "meshq-arrival-rate": lambda signal: term(signal, ARRIVAL_RATE),
    "meshq-oldest-age-seconds": lambda signal: term(signal, OLDEST_AGE),
}


def is_ours(path: str) -> bool:
    return any(path == base or path.startswith(f"{base}/") for base in PATHS)


def answer(signals: Signals, request: HttpRequest) -> HttpResponse:
    """To a request whose path `is_ours`."""
    path, _, query = request.target.decode("latin-1").partition("?")
    path = path.rstrip("/")
    if request.method not in READS:
        return _status(405, "MethodNotAllowed", "metrics are only read")
    if path in _DISCOVERY:
        return as_json(_DISCOVERY[path])
    namespace, _, metric = path.removeprefix(_NAMESPACES).partition("/")
    if not path.startswith(_NAMESPACES) or not namespace or not metric:
        return _status(404, "NotFound", "there is nothing at this path")
    return _values(signals, unquote(metric), query)


def _values(signals: Signals, metric: str, query: str) -> HttpResponse:
    value = METRICS.get(metric)
    if value is None:
        return _status(404, "NotFound", f"{metric[:100]!r} is no metric here; there are {', '.join(METRICS)}", metric)
    try:
        selector = parse_selector(parse_qs(query).get("labelSelector", [""])[-1])
    except ValueError as error:
        return _status(400, "BadRequest", f"labelSelector: {error}")
    found = [signal for signal in signals.all() if matches(selector, dict(zip(LABELS, labels(signal), strict=True)))]
    if not found and signals.fault:
        return _status(503, "ServiceUnavailable", signals.fault)
    items = []
    for signal in found:
        figure = None if signal.decision.stale else value(signal)
        if figure is None or not math.isfinite(figure):
            return _status(503, "ServiceUnavailable", f"{metric} is not known of {why_unknown(signals, signal)}")
        items.append(_item(signal, metric, figure))
    return as_json({"kind": _KIND, "apiVersion": GROUP_VERSION, "metadata": {}, "items": items})


def _item(signal: Signal, metric: str, value: float) -> dict[str, Any]:
    return {
        "metricName": metric,
        "metricLabels": dict(zip(LABELS, labels(signal), strict=True)),
        "timestamp": datetime.fromtimestamp(signal.at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "window": 0,
        "value": quantity(value),
    }


def quantity(value: float) -> str:
    """A Kubernetes quantity, to the thousandth above: 12.5 -> `12500m`, 3.0 -> `3`."""
    thousandths = math.ceil(round(value * 1000, 6))
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def _status(code: int, reason: str, message: str, metric: str = "") -> HttpResponse:
    """A failure as Kubernetes tells it."""
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    if metric:
        body["details"] = {"name": metric[:100], "group": GROUP, "kind": "externalmetrics"}
    headers = [(b"Content-Type", b"application/json")]
    if code == 405:
        headers.append((b"Allow", b"GET, HEAD"))
    return HttpResponse(code, headers, json.dumps(body).encode() + b"\n")


_VERSIONED = {"groupVersion": GROUP_VERSION, "version": VERSION}
_GROUP = {"name": GROUP, "versions": [_VERSIONED], "preferredVersion": _VERSIONED}
_DISCOVERY: dict[str, dict[str, Any]] = {
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP]},
    f"/apis/{GROUP}": {"kind": "APIGroup", "apiVersion": "v1", **_GROUP},
    _BASE: {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": GROUP_VERSION,
        "resources": [
            {"name": "externalmetrics", "singularName": "", "namespaced": True, "kind": _KIND, "verbs": ["get"]}
        ],
    },
}
