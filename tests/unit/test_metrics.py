"""What /metrics shows, in the text format that Prometheus reads."""

from prometheus_client.parser import text_string_to_metric_families

from meshq.adapters.metrics import EVENTS, SECONDS, WITH_REASON, PrometheusMetrics


def read(metrics: PrometheusMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Sample name and labels -> value."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_calls_are_counted_by_service_route_and_code_and_timed_by_service() -> None:
    metrics = PrometheusMetrics()
    metrics.call_answered("orders", "host", "200", 0.0004)
    metrics.call_answered("orders", "host", "200", 0.003)
    metrics.call_answered("orders", "/v1/call/{address}/{path}", "deadline", 100.0)
    shown = read(metrics)
    host = (("code", "200"), ("route", "host"), ("service", "orders"))
    assert shown["meshq_outbound_requests_total", host] == 2
    path = (("code", "deadline"), ("route", "/v1/call/{address}/{path}"), ("service", "orders"))
    assert shown["meshq_outbound_requests_total", path] == 1
    buckets = [
        shown["meshq_outbound_request_seconds_bucket", (("le", bound), ("service", "orders"))]
        for bound in ("0.0005", "0.001", "0.005", "60.0", "+Inf")
    ]
    assert buckets == [1, 1, 2, 2, 3]
    assert shown["meshq_outbound_request_seconds_count", (("service", "orders"),)] == 3
    assert abs(shown["meshq_outbound_request_seconds_sum", (("service", "orders"),)] - 100.0034) < 1e-9


def test_a_bound_belongs_to_its_bucket() -> None:
    metrics = PrometheusMetrics()
    for bound in SECONDS:
        metrics.handled("orders.v1", "200", bound)
    shown = read(metrics)
    for number, bound in enumerate(SECONDS, 1):
        key = ("meshq_inbound_request_seconds_bucket", (("le", str(float(bound))), ("topic", "orders.v1")))
        assert shown[key] == number


def test_every_event_has_a_counter_of_its_own_and_reasons_are_labels() -> None:
    metrics = PrometheusMetrics()
    for event in EVENTS:
        metrics.count(f"{event}:why" if event in WITH_REASON else event)
    shown = read(metrics)
    assert {"given_back", "dead_lettered", "mirror_failed"} == WITH_REASON
    assert [shown[f"meshq_{EVENTS[event][0]}_total", (("reason", "why"),)] for event in WITH_REASON] == [1, 1, 1]
    plain = [name for event, (name, _) in EVENTS.items() if event not in WITH_REASON]
    assert [shown[f"meshq_{name}_total", ()] for name in plain] == [1] * len(plain)


def test_gauges_are_asked_when_somebody_looks() -> None:
    metrics = PrometheusMetrics()
    values = iter((3.0, 4.0))
    metrics.gauge("inbound_in_flight", "Messages at the app", lambda: next(values))
    metrics.info(version="1.2.3", service="orders")
    assert read(metrics)["meshq_inbound_in_flight", ()] == 3
    shown = read(metrics)
    assert shown["meshq_inbound_in_flight", ()] == 4
    assert shown["meshq_build_info", (("service", "orders"), ("version", "1.2.3"))] == 1


def test_counters_that_others_keep_are_asked_for_when_somebody_looks() -> None:
    metrics, kept = PrometheusMetrics(), {"good": 0, "bad": 2}
    metrics.counts("questions", "What was asked", "result", lambda: kept)
    kept["good"] += 1
    text = metrics.render().decode()
    assert 'meshq_questions_total{result="good"} 1.0' in text
    assert 'meshq_questions_total{result="bad"} 2.0' in text
