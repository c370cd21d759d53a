"""The Kubernetes External Metrics API: its exact JSON, and the official client over TLS (statement A5)."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3
import uvloop
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from kubernetes import client as kubernetes

from meshq.adapters.http_server import Server
from meshq.adapters.tls_serving import Files, load
from meshq.core.http import HttpRequest
from meshq.signals import external_metrics
from meshq.signals.external_metrics import quantity
from meshq.signals.http_api import HttpApi
from meshq.signals.labels import matches, parse_selector
from tests.http_tools import Peer, within
from tests.told_signals import AWAY, ToldSignals, signal, stale

GROUP = "external.metrics.k8s.io"
BASE = f"/apis/{GROUP}/v1beta1"
DESIRED = f"{BASE}/namespaces/shop/meshq-desired-replicas"


@pytest.fixture
def signals() -> ToldSignals:
    return ToldSignals(signal("orders", 1, 1), signal("orders", 2, 3), signal("billing", 1, 0))


def asked(signals: ToldSignals, target: str, method: bytes = b"GET") -> tuple[int, Any]:
    response = external_metrics.answer(signals, HttpRequest(method, target.encode(), [], None))
    assert (b"Content-Type", b"application/json") in response.headers
    return response.status, json.loads(response.body)


def failure(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    }  # fmt: skip


# --- its JSON -----------------------------------------------------------------------------------------------------------------


def test_the_resources_are_those_of_every_external_metrics_api(signals: ToldSignals) -> None:
    for target in (BASE, f"{BASE}/", f"{BASE}?timeout=32s"):
        assert asked(signals, target) == (
            200,
            {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": "external.metrics.k8s.io/v1beta1",
                "resources": [
                    {
                        "name": "externalmetrics",
                        "singularName": "",
                        "namespaced": True,
                        "kind": "ExternalMetricValueList",
                        "verbs": ["get"],
                    }
                ],
            },
        )


def test_a_metric_of_one_topic(signals: ToldSignals) -> None:
    assert asked(signals, f"{DESIRED}?labelSelector=service%3Dorders%2Cversion%3D2") == (
        200,
        {
            "kind": "ExternalMetricValueList",
            "apiVersion": "external.metrics.k8s.io/v1beta1",
            "metadata": {},
            "items": [
                {
                    "metricName": "meshq-desired-replicas",
                    "metricLabels": {"service": "orders", "version": "2", "topic": "orders.v2"},
                    "timestamp": "2033-05-18T03:33:20Z",
                    "window": 0,
                    "value": "3",
                }
            ],
        },
    )


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("meshq-desired-replicas", "3"),
        ("meshq-waiting-messages", "7"),
        ("meshq-arrival-rate", "12500m"),
        ("meshq-oldest-age-seconds", "1500m"),
    ],
)
def test_every_metric(signals: ToldSignals, metric: str, value: str) -> None:
    _, listed = asked(signals, f"{BASE}/namespaces/any/{metric}?labelSelector=topic=orders.v2")
    assert [item["value"] for item in listed["items"]] == [value]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3, "3"), (12.5, "12500m"), (0.0001, "1m"), (0.1 + 0.2, "300m"), (1e12, "1000000000000")],
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value) == text


def test_a_service_at_zero_has_a_figure_and_that_is_0(signals: ToldSignals) -> None:
    _, listed = asked(signals, f"{DESIRED}?labelSelector=service=billing")
    assert [item["value"] for item in listed["items"]] == ["0"]


# --- which topics -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "topics"),
    [
        ("", ["orders.v1", "orders.v2", "billing.v1"]),
        ("service=orders", ["orders.v1", "orders.v2"]),
        ("service==orders,version=2", ["orders.v2"]),
        ("service+in+(orders,%20billing),version+notin+(2)", ["orders.v1", "billing.v1"]),
        ("service!=orders", ["billing.v1"]),
        ("topic,!spare", ["orders.v1", "orders.v2", "billing.v1"]),
        ("spare", []),
        ("service=shipping", []),
        ("version=2.1.0", []),
    ],
)
def test_label_selectors(signals: ToldSignals, selector: str, topics: list[str]) -> None:
    status, listed = asked(signals, f"{DESIRED}?labelSelector={selector}")
    assert status == 200
    assert [item["metricLabels"]["topic"] for item in listed["items"]] == topics


@pytest.mark.parametrize(
    "selector",
    ["service", "service=orders", "a in (b,c),!d", "example.com/a=b", "in in (in)", "a=", "a in ()", " a = b , ! c "],
)
def test_selectors_that_can_be_read(selector: str) -> None:
    assert isinstance(matches(parse_selector(selector), {"service": "orders"}), bool)


@pytest.mark.parametrize(
    "selector",
    [
        *("=orders", "service=orders,", ",", "service orders", "a in b", "a in (b", "a in (b c)", "a=b c", "!", "-a"),
        "a" * 5000,
    ],
)
def test_selectors_that_make_no_sense(selector: str) -> None:
    with pytest.raises(ValueError, match="label"):
        parse_selector(selector)


def test_a_bad_selector_is_a_bad_request(signals: ToldSignals) -> None:
    status, said = asked(signals, f"{DESIRED}?labelSelector=service%3D%3D%3Dorders")
    assert (status, said["reason"]) == (400, "BadRequest")
    assert said["message"].startswith("labelSelector: '")


# --- what is not there, or not known ------------------------------------------------------------------------------------------


def test_an_unknown_metric_is_not_found(signals: ToldSignals) -> None:
    status, said = asked(signals, f"{BASE}/namespaces/shop/queue-depth")
    message = (
        "'queue-depth' is no metric here; there are meshq-desired-replicas, meshq-waiting-messages, meshq-arrival-rate, "
        "meshq-oldest-age-seconds"
    )
    assert (status, said) == (
        404,
        {
            **failure(404, "NotFound", message),
            "details": {"name": "queue-depth", "group": GROUP, "kind": "externalmetrics"},
        },
    )


@pytest.mark.parametrize(
    "target",
    ["/openapi/v2", "/openapi/v3", "/apis/apps/v1", f"{BASE}/namespaces", f"{BASE}/namespaces/shop", f"{BASE}x"],
)
def test_other_paths_are_not_found_as_kubernetes_tells_it(signals: ToldSignals, target: str) -> None:
    assert asked(signals, target) == (404, failure(404, "NotFound", "there is nothing at this path"))


def test_nothing_is_written(signals: ToldSignals) -> None:
    assert asked(signals, DESIRED, b"DELETE") == (405, failure(405, "MethodNotAllowed", "metrics are only read"))


@pytest.mark.parametrize("selector", ["", "service=orders", "service=orders,version=2"])
@pytest.mark.parametrize("metric", external_metrics.METRICS)
def test_one_stale_topic_makes_the_sum_unavailable_keda_7180(signals: ToldSignals, metric: str, selector: str) -> None:
    """Whoever adds up what is there would take a topic that is left out for 0 (kedacore/keda#7180)."""
    signals.tell(stale("orders", 2, desired=3))
    status, said = asked(signals, f"{BASE}/namespaces/shop/{metric}?labelSelector={selector}")
    assert (status, said) == (
        503,
        failure(503, "ServiceUnavailable", f"{metric} is not known of orders.v2: {AWAY}"),
    )
    assert asked(signals, f"{BASE}/namespaces/shop/{metric}?labelSelector=version=1")[0] == 200


def test_a_figure_that_is_not_known_is_unavailable(signals: ToldSignals) -> None:
    signals.tell(signal("orders", 2, None, terms={"arrivalRate": None}, waiting=None))
    for metric in external_metrics.METRICS:
        assert asked(signals, f"{BASE}/namespaces/shop/{metric}?labelSelector=version=2")[0] == 503


def test_before_the_first_figures_all_is_unavailable(signals: ToldSignals) -> None:
    signals.forget()
    signals.fault = "the broker cannot be asked"
    assert asked(signals, DESIRED) == (503, failure(503, "ServiceUnavailable", "the broker cannot be asked"))


# --- the official client ------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Files:
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return Files(tmp_path / "cert.pem", tmp_path / "key.pem")


@asynccontextmanager
async def serving(signals: ToldSignals, files: Files) -> AsyncIterator[int]:
    server = Server()
    api = HttpApi(signals, lambda: b"", "text/plain")
    port = await server.listen_tls("127.0.0.1", 0, api.handle, load(files).context)
    try:
        yield port
    finally:
        await server.close(0)


@asynccontextmanager
async def api_client(port: int, ca: Path, cert: Path | None = None) -> AsyncIterator[kubernetes.ApiClient]:
    settings = kubernetes.Configuration(host=f"https://127.0.0.1:{port}")
    settings.ssl_ca_cert = str(ca)
    settings.cert_file = None if cert is None else str(cert)
    settings.retries = False
    with kubernetes.ApiClient(settings) as client:
        yield client
        client.rest_client.pool_manager.clear()


def test_the_official_client_over_tls(signals: ToldSignals, files: Files) -> None:
    def scene(client: kubernetes.ApiClient) -> None:
        groups = kubernetes.ApisApi(client).get_api_versions()
        assert [(group.name, group.preferred_version.group_version) for group in groups.groups] == [
            (GROUP, f"{GROUP}/v1beta1")
        ]
        api = kubernetes.CustomObjectsApi(client)
        (resource,) = api.get_api_resources(GROUP, "v1beta1").resources
        assert (resource.name, resource.namespaced, resource.kind) == (
            "externalmetrics", True, "ExternalMetricValueList",
        )  # fmt: skip
        listed = api.list_namespaced_custom_object(
            GROUP, "v1beta1", "shop", "meshq-desired-replicas", label_selector="service in (orders),version=2"
        )
        assert [item["value"] for item in listed["items"]] == ["3"]
        for metric, status in (("queue-depth", 404), ("meshq-arrival-rate", 503)):
            signals.tell(stale("orders", 2))
            with pytest.raises(kubernetes.ApiException) as refused:
                api.list_namespaced_custom_object(GROUP, "v1beta1", "shop", metric)
            assert (refused.value.status, json.loads(refused.value.body)["kind"]) == (status, "Status")

    async def served() -> None:
        async with serving(signals, files) as port, api_client(port, files.cert.parent / "ca.pem") as client:
            await within(asyncio.to_thread(scene, client))

    uvloop.run(served())


def test_only_the_apiserver_may_ask_where_its_authority_is_given(
    signals: ToldSignals, files: Files, authority: trustme.CA, tmp_path: Path
) -> None:
    proxy_ca = trustme.CA()
    proxy_ca.cert_pem.write_to_path(str(tmp_path / "proxy-ca.pem"))
    for name, ca in (("proxy", proxy_ca), ("other", authority)):
        ca.issue_cert("front-proxy-client").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / f"{name}.pem"))

    def groups(client: kubernetes.ApiClient) -> int:
        return len(kubernetes.ApisApi(client).get_api_versions().groups)

    async def ask(port: int, cert: str) -> int:
        async with api_client(port, tmp_path / "ca.pem", tmp_path / cert if cert else None) as client:
            return await within(asyncio.to_thread(groups, client))

    async def served() -> None:
        async with serving(signals, files._replace(client_ca=tmp_path / "proxy-ca.pem")) as port:
            assert await ask(port, "proxy.pem") == 1
            for refused in ("", "other.pem"):
                with pytest.raises(urllib3.exceptions.HTTPError):  # there was no answer
                    await ask(port, refused)

    uvloop.run(served())


# --- TLS of the HTTP server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_https_answers_in_order_and_ends_after_a_bad_request(
    signals: ToldSignals, files: Files, run: Callable[..., Any]
) -> None:
    trusting = ssl.create_default_context(cafile=files.cert.parent / "ca.pem")

    async def served() -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with serving(signals, files) as port:
            peer = Peer(*await within(asyncio.open_connection("127.0.0.1", port, ssl=trusting)))
            peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\nNONSENSE\r\n\r\n")
            answers = [await peer.answer() for _ in range(3)]
            assert [(each.status, each.get(b"connection")) for each in answers] == [
                (200, None), (404, None), (400, b"close"),
            ]  # fmt: skip
            await peer.close()
        assert faults == []

    run(served())


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "said"),
    [
        ("none.pem", "key.pem", None, r"none\.pem cannot be read: No such file or directory"),
        ("cert.pem", "cert.pem", None, r"cert\.pem and .*cert\.pem are not a certificate and its key in PEM"),
        ("cert.pem", "other.pem", None, "are not a certificate and its key in PEM"),
        ("cert.pem", "locked.pem", None, "are not a certificate and its key in PEM"),
        ("cert.pem", "key.pem", "empty.pem", r"empty\.pem holds no certificates in PEM"),
    ],
)
def test_files_that_do_not_fit_are_told(
    files: Files, tmp_path: Path, cert: str, key: str, client_ca: str | None, said: str
) -> None:
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    own = load_pem_private_key(files.key.read_bytes(), None)
    (tmp_path / "locked.pem").write_bytes(
        own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    (tmp_path / "empty.pem").write_bytes(b"")
    with pytest.raises(OSError, match=said):
        load(Files(tmp_path / cert, tmp_path / key, None if client_ca is None else tmp_path / client_ca))
