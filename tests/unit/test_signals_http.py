"""What `meshq signals` serves over HTTP to people, to Prometheus and to kubelets."""

import json
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from meshq.adapters.metrics import CONTENT_TYPE
from meshq.adapters.metrics_signals import SignalMetrics
from meshq.signals.gauges import GAUGES, LABELS, rows
from meshq.signals.http_api import HttpApi
from tests.http_tools import Answer, connected, serving
from tests.told_signals import AWAY, ToldSignals, never_counted, signal, stale

V2 = (("service", "orders"), ("topic", "orders.v2"), ("version", "2"))
STATUS_KEYS = [
    "service", "version", "topic", "replicas", "desired", "reason", "ready", "inFlight", "arrivalRate", "serviceSeconds",
    "oldestAgeSeconds", "stale",
]  # fmt: skip
NOBODY_LEADS = {"leading": None, "leader": None}


@pytest.fixture
def signals() -> ToldSignals:
    return ToldSignals(signal("billing", 1, 0, replicas=0), signal("orders", 1, 1), signal("orders", 2, 3))


def metrics_of(signals: ToldSignals) -> SignalMetrics:
    return SignalMetrics(GAUGES, LABELS, lambda: rows(signals), lambda: signals.leading, "1.2.3")


def ask(signals: ToldSignals, *targets: str, method: str = "GET") -> list[Answer]:
    """Of one server, one after the other."""
    api = HttpApi(signals, metrics_of(signals).render, CONTENT_TYPE)

    async def scene() -> list[Answer]:
        async with serving(api.handle) as (_, port), connected(port) as peer:
            answers = []
            for target in targets:
                peer.send(f"{method} {target} HTTP/1.1\r\nHost: signals\r\n\r\n".encode())
                answers.append(await peer.answer(method.encode()))
            return answers

    return uvloop.run(scene())  # type: ignore[no-any-return]


def ask_json(signals: ToldSignals, target: str) -> tuple[int, Any]:
    (answer,) = ask(signals, target)
    return answer.status, json.loads(answer.body)


Shown = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: bytes) -> Shown:
    """Sample name and labels -> value."""
    families = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def of_topic(shown: Shown) -> dict[str, float]:
    return {name: value for (name, labels), value in shown.items() if labels == V2}


# --- /v1/scale ----------------------------------------------------------------------------------------------------------------


def test_the_status_of_every_topic(signals: ToldSignals) -> None:
    status, shown = ask_json(signals, "/v1/scale")
    assert status == 200
    assert [list(row) for row in shown] == [STATUS_KEYS] * 3
    assert [row["topic"] for row in shown] == ["billing.v1", "orders.v1", "orders.v2"]
    assert list(shown[2].values()) == [
        "orders", "2.1.0", "orders.v2", 2, 3, "12.5 messages a second come", 7, 3, 12.5, 0.05, 1.5, False,
    ]  # fmt: skip


def test_what_is_not_known_is_null(signals: ToldSignals) -> None:
    signals.tell(never_counted())
    _, shown = ask_json(signals, "/v1/scale/orders")
    assert [shown[1][key] for key in STATUS_KEYS[4:]] == [None, AWAY, None, None, None, None, None, True]
    signals.tell(signal(terms={"arrivalRate": float("inf"), "serviceSeconds": None}, replicas=None))
    _, shown = ask_json(signals, "/v1/scale/orders")
    assert [shown[1][key] for key in ("replicas", "arrivalRate", "serviceSeconds", "oldestAgeSeconds")] == [None] * 4


def test_one_service_with_what_it_was_decided_by(signals: ToldSignals) -> None:
    status, shown = ask_json(signals, "/v1/scale/orders")
    assert status == 200
    assert [row["topic"] for row in shown] == ["orders.v1", "orders.v2"]
    assert {key: value for key, value in shown[1].items() if key not in STATUS_KEYS} == {
        "held": "",
        "oldestAgeIsBound": False,
        "policy": {"wait": "10s", "quantile": 0.95, "min": 0, "max": 20},
        "counts": {"arrived": 1010, "handled": 1000, "busySeconds": 50, "busySquares": 3, "failed": None},
        "terms": {"arrivalRate": 12.5, "serviceSeconds": 0.05, "oldestAgeSeconds": 1.5},
        "decidedAt": "2033-05-18T03:33:20.000Z",
        "countedAt": "2033-05-18T03:33:18.000Z",
        "reportedAt": "2033-05-18T03:33:15.000Z",
    }


@pytest.mark.parametrize("unknown", ["counted_at", "waiting", "in_flight", "done"])
def test_what_arrived_is_not_known_where_a_part_of_it_is_not(signals: ToldSignals, unknown: str) -> None:
    signals.tell(signal(**{unknown: None}))
    _, shown = ask_json(signals, "/v1/scale/orders")
    assert [row["counts"]["arrived"] for row in shown] == [1010, None]


def test_what_was_never_counted_has_no_date(signals: ToldSignals) -> None:
    found = never_counted()
    signals.tell(replace(found, sample=replace(found.sample, reported_at=None)))
    _, shown = ask_json(signals, "/v1/scale/orders")
    assert (shown[1]["held"], shown[1]["countedAt"], shown[1]["reportedAt"]) == ("stale", None, None)


def test_an_unknown_service_is_not_found(signals: ToldSignals) -> None:
    status, shown = ask_json(signals, "/v1/scale/shipping")
    assert (status, shown["code"]) == (404, "unknown-service")
    assert shown["detail"].startswith("shipping: nothing is known of it")


def test_without_any_figures_the_answer_is_503_and_why(signals: ToldSignals) -> None:
    signals.forget()
    signals.fault = "the registry is away: is redis running?"
    for target, detail in (
        ("/v1/scale", "the registry is away: is redis running?"),
        ("/v1/scale/orders", "orders: the registry is away: is redis running?"),
    ):
        status, shown = ask_json(signals, target)
        assert (status, shown["code"], shown["detail"]) == (503, "unavailable", detail)
    signals.fault = ""
    assert ask_json(signals, "/v1/scale") == (200, [])


# --- /metrics -----------------------------------------------------------------------------------------------------------------


def test_the_gauges_of_a_topic(signals: ToldSignals) -> None:
    (answer,) = ask(signals, "/metrics")
    assert (answer.status, answer.get(b"content-type")) == (200, CONTENT_TYPE.encode())
    assert of_topic(read(answer.body)) == {
        "meshq_scale_desired_replicas": 3.0,
        "meshq_scale_replicas": 2.0,
        "meshq_scale_ready_messages": 7.0,
        "meshq_scale_in_flight_messages": 3.0,
        "meshq_scale_arrival_rate": 12.5,
        "meshq_scale_service_seconds": 0.05,
        "meshq_scale_oldest_age_seconds": 1.5,
        "meshq_scale_signal_stale": 0.0,
    }
    billing = (("service", "billing"), ("topic", "billing.v1"), ("version", "1"))
    assert read(answer.body)["meshq_scale_desired_replicas", billing] == 0


@pytest.mark.parametrize("desired", [None, 0, 3])
def test_missing_statistics_have_no_series_and_never_0_keda_7180(signals: ToldSignals, desired: int | None) -> None:
    """A statistic that is missing read as 0 scales to zero (kedacore/keda#7180)."""
    signals.tell(never_counted() if desired is None else stale(desired=desired))
    (answer,) = ask(signals, "/metrics")
    assert of_topic(read(answer.body)) == {"meshq_scale_signal_stale": 1.0}


def test_a_figure_that_is_not_known_has_no_series(signals: ToldSignals) -> None:
    signals.tell(signal("orders", 2, None, terms={"arrivalRate": None, "serviceSeconds": float("nan")}, waiting=None))
    (answer,) = ask(signals, "/metrics")
    assert of_topic(read(answer.body)) == {
        "meshq_scale_replicas": 2.0,
        "meshq_scale_in_flight_messages": 3.0,
        "meshq_scale_signal_stale": 0.0,
    }


@pytest.mark.parametrize(("leading", "shown"), [(None, None), (True, 1.0), (False, 0.0)])
def test_who_leads_is_shown_where_somebody_does(
    signals: ToldSignals, leading: bool | None, shown: float | None
) -> None:
    signals.leading = leading
    assert read(metrics_of(signals).render()).get(("meshq_signals_leader", ())) == shown


def test_passes_and_what_runs_here(signals: ToldSignals) -> None:
    metrics = metrics_of(signals)
    metrics.pass_took(0.2)
    metrics.pass_took(0.3)
    shown = read(metrics.render())
    assert shown["meshq_signals_pass_seconds_count", ()] == 2
    assert shown["meshq_signals_pass_seconds_sum", ()] == pytest.approx(0.5)
    assert shown["meshq_build_info", (("version", "1.2.3"),)] == 1


# --- health, and the rest -----------------------------------------------------------------------------------------------------


def test_ready_from_the_first_figures_on() -> None:
    signals = ToldSignals()
    signals.fault = "nothing was counted yet"
    api = HttpApi(signals, lambda: b"", "text/plain")

    async def scene() -> list[tuple[int, Any]]:
        found = []
        async with serving(api.handle) as (_, port), connected(port) as peer:
            for fault in ("nothing was counted yet", "", "the broker is away"):
                signals.fault = fault
                peer.send(b"GET /readyz HTTP/1.1\r\nHost: signals\r\n\r\n")
                answer = await peer.answer()
                found.append((answer.status, json.loads(answer.body)))
        return found

    assert uvloop.run(scene()) == [
        (503, {"ready": False, "checks": {"figures": "nothing was counted yet"}, **NOBODY_LEADS}),
        (200, {"ready": True, "checks": {"figures": "ok"}, **NOBODY_LEADS}),
        (200, {"ready": True, "checks": {"figures": "the broker is away"}, **NOBODY_LEADS}),
    ]


@pytest.mark.parametrize(
    ("leading", "leader", "named"),
    [(True, "signals-0", "signals-0"), (False, "signals-1", "signals-1"), (False, "", None), (None, "", None)],
)
def test_who_leads_is_told_and_makes_nobody_unready(
    signals: ToldSignals, leading: bool | None, leader: str, named: str | None
) -> None:
    signals.leading, signals.leader = leading, leader
    status, body = ask_json(signals, "/readyz")
    assert (status, body["ready"], body["leading"], body["leader"]) == (200, True, leading, named)


def test_other_paths_and_methods(signals: ToldSignals) -> None:
    alive, nothing, kubernetes = ask(signals, "/livez", "/v2", "/apis/external.metrics.k8s.io/v1beta1")
    assert (alive.status, alive.body, nothing.status, kubernetes.status) == (200, b"ok\n", 404, 200)
    assert b"/v1/scale/<service>" in nothing.body
    assert [answer.status for answer in ask(signals, "/v1/scale", "/livez", method="HEAD")] == [200, 200]
    for answer in ask(signals, "/v1/scale", "/v1/scale/orders", "/metrics", "/livez", method="POST"):
        assert (answer.status, answer.get(b"allow")) == (405, b"GET, HEAD")
