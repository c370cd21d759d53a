"""The manifests of `meshq scale manifest`: what is in them as a cluster reads it, and which traps they name.

Kinds of Kubernetes are read into the models of its official client, which are made from its own API description; every field has to be
one of the model, and has to come out of it as it went in. There is no such description of KEDA's ScaledObject here: its fields are
compared with the documented ones."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import typer
from kubernetes import client
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from meshq.adapters.kubernetes import EXTERNAL_METRICS
from meshq.adapters.metrics_signals import SignalMetrics
from meshq.cli.scale_manifest import manifest
from meshq.kube.scale_plan import METRIC, SERIES
from meshq.signals import GRPC_PORT, HTTP_PORT, HTTPS_PORT
from meshq.signals.direct_targets import Target, parse_targets
from meshq.signals.external_metrics import GROUP_VERSION, METRICS
from meshq.signals.figures import Wishes
from meshq.signals.gauges import GAUGES, LABELS, rows
from meshq.signals.keda_metadata import Asked, read
from tests.told_signals import ToldSignals, signal

MODELS = {
    "HorizontalPodAutoscaler": client.V2HorizontalPodAutoscaler,
    "Service": client.V1Service,
    "ConfigMap": client.V1ConfigMap,
    "APIService": client.V1APIService,
    "Role": client.V1Role,
    "RoleBinding": client.V1RoleBinding,
    "ClusterRole": client.V1ClusterRole,
    "ClusterRoleBinding": client.V1ClusterRoleBinding,
}
SCALED_OBJECT = {
    "scaleTargetRef": {"name"},
    "pollingInterval": None,
    "cooldownPeriod": None,
    "minReplicaCount": None,
    "maxReplicaCount": None,
    "advanced": {"horizontalPodAutoscalerConfig"},
    "triggers": None,
}
"""Those of the fields of its `spec` in KEDA's documentation that are used here."""
Document = dict[str, Any]

app = typer.Typer()
app.command()(manifest)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def printed(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    """In one line: typer draws a box around what is wrong."""
    result = run(*arguments)
    assert result.exit_code == 2
    return " ".join(result.stderr.replace("│", " ").split())


def documents(text: str) -> list[Document]:
    loaded = list(YAML(typ="safe", pure=True).load_all(text))
    plain: list[Document] = json.loads(json.dumps(loaded))
    for each in plain:
        if each["kind"] != "ScaledObject":
            _fits(each)
    return plain


def _fits(document: Document) -> None:
    """Raises pydantic.ValidationError for a wrong type or a missing field; an unknown field is lost on the way."""
    model = MODELS[document["kind"]].from_dict(document)
    assert model is not None
    assert client.ApiClient().sanitize_for_serialization(model) == document


def one(kind: str, text: str) -> Document:
    (found,) = [each for each in documents(text) if each["kind"] == kind]
    return found


def comments(text: str) -> str:
    """All of them, in one line."""
    return " ".join(line.strip().removeprefix("#").strip() for line in text.splitlines() if line.strip()[:1] == "#")


# --- KEDA -------------------------------------------------------------------------------------------------------------------


def test_a_scaled_object_as_keda_documents_it() -> None:
    found = one("ScaledObject", printed("orders", "--for", "keda", "--version", "2", "--namespace", "shop"))
    assert (found["apiVersion"], found["metadata"]) == (
        "keda.sh/v1alpha1",
        {"name": "meshq-orders-v2", "namespace": "shop"},
    )
    spec = found["spec"]
    assert spec.keys() == SCALED_OBJECT.keys()
    assert all(names is None or spec[key].keys() == names for key, names in SCALED_OBJECT.items())
    assert spec["scaleTargetRef"] == {"name": "orders"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 20)
    assert spec["cooldownPeriod"] < 60
    (trigger,) = spec["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("external-push", "AverageValue")
    assert trigger["metadata"]["scalerAddress"] == "meshq-signals.shop:3591"
    assert all(type(value) is str for value in trigger["metadata"].values()), "KEDA takes text alone"


def test_the_scaler_understands_the_triggers_metadata() -> None:
    given = ("--min", "1", "--max", "9", "--wait", "2.5s", "--quantile", "0.99")
    (trigger,) = one("ScaledObject", printed("orders@2", "--for", "keda", *given))["spec"]["triggers"]
    assert read(trigger["metadata"]) == Asked("orders", 2, Wishes(wait=2.5, quantile=0.99, min=1, max=9))
    (trigger,) = one("ScaledObject", printed("orders", "--for", "keda"))["spec"]["triggers"]
    assert read(trigger["metadata"]) == Asked("orders", None, Wishes(max=20))


def test_the_traps_of_keda_are_named() -> None:
    said = comments(printed("orders", "--for", "keda"))
    for trap in (
        "keda#7729",
        "keda#8056",
        "keda#5525",
        "`fallback`",
        "`replicas` out of",
        "enableTLS",
        "No version is named",
    ):
        assert trap in said


def test_keda_through_prometheus_takes_absent_for_unknown() -> None:
    text = printed("orders", "--for", "keda", "--version", "2", "--prometheus", "http://prom.mon:9090")
    spec = one("ScaledObject", text)["spec"]
    (trigger,) = spec["triggers"]
    assert trigger == {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": "http://prom.mon:9090",
            "query": 'max(meshq_scale_desired_replicas{service="orders",version="2"})',
            "threshold": "1",
            "ignoreNullValues": "false",
        },
    }


# --- HPAs -------------------------------------------------------------------------------------------------------------------


def _behaviour(kind: str, kubernetes: str) -> tuple[Mapping[str, Any], str]:
    text = printed("orders", "--for", kind, "--kubernetes", kubernetes)
    found = documents(text)[-1]["spec"]
    behaviour = found["advanced"]["horizontalPodAutoscalerConfig"] if kind == "keda" else found
    return behaviour["behavior"], comments(text)


@pytest.mark.parametrize("kind", ["keda", "hpa", "prometheus-adapter"])
@pytest.mark.parametrize(
    ("kubernetes", "tolerance", "warned"),
    [("1.37", "0", False), ("1.35", "0", False), ("v1.34.2", "0", True), ("1.33", "0", True), ("1.32", None, True)],
)
def test_a_step_of_one_counts_or_it_is_said_that_it_does_not(
    kind: str, kubernetes: str, tolerance: str | None, warned: bool
) -> None:
    behaviour, said = _behaviour(kind, kubernetes)
    assert [behaviour[way].get("tolerance") for way in ("scaleUp", "scaleDown")] == [tolerance, tolerance]
    assert ("WARNING" in said) is warned
    assert "10 % or less is ignored" in said
    assert ("HPAConfigurableTolerance" in said) is (warned and tolerance is not None)
    assert ("--horizontal-pod-autoscaler-tolerance=0" in said) is (tolerance is None)


@pytest.mark.parametrize("kind", ["keda", "hpa", "prometheus-adapter"])
def test_nothing_is_damped_twice(kind: str) -> None:
    behaviour, _ = _behaviour(kind, "1.35")
    assert [behaviour[way]["stabilizationWindowSeconds"] for way in ("scaleUp", "scaleDown")] == [0, 0]
    assert behaviour["scaleUp"]["policies"] == [{"type": "Pods", "value": 20, "periodSeconds": 15}]


def test_an_hpa_asks_for_the_metric_that_is_served() -> None:
    found = one("HorizontalPodAutoscaler", printed("orders", "--for", "hpa", "--version", "2", "--deployment", "o2"))
    assert found["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "o2"}
    (metric,) = found["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] in METRICS
    assert metric["external"]["metric"]["selector"] == {"matchLabels": {"service": "orders", "version": "2"}}
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        ((), 1),
        (("--min", "3"), 3),
        (("--min", "0", "--scale-to-zero"), 0),
        (("--scale-to-zero",), 0),
        (("--kubernetes", "1.37"), 0),
        (("--kubernetes", "1.37", "--min", "2"), 2),
    ],
)
def test_an_hpa_goes_to_zero_only_where_the_cluster_lets_it(arguments: tuple[str, ...], least: int) -> None:
    found = one("HorizontalPodAutoscaler", printed("orders", "--for", "hpa", *arguments))
    assert found["spec"]["minReplicas"] == least


@pytest.mark.parametrize("kind", ["hpa", "prometheus-adapter"])
def test_zero_that_a_cluster_would_refuse_is_refused_here(kind: str) -> None:
    assert "needs the feature gate HPAScaleToZero" in refused("orders", "--for", kind, "--min", "0")


def test_the_api_of_external_metrics_leads_to_the_servers_service() -> None:
    text = printed("orders", "--for", "hpa", "--with-apiservice", "--address", "sig.mesh.svc:3591")
    found = one("APIService", text)["spec"]
    service = one("Service", text)
    assert (found["group"], found["version"]) == ("external.metrics.k8s.io", "v1beta1")
    assert found["service"] == {"name": "sig", "namespace": "mesh", "port": 443}
    assert service["metadata"] == {"name": "sig", "namespace": "mesh"}
    ports = [port.get("targetPort", port["port"]) for port in service["spec"]["ports"]]
    assert ports == [GRPC_PORT, HTTP_PORT, HTTPS_PORT]
    subjects = [each["subjects"][0]["name"] for each in documents(text) if each["kind"] == "ClusterRoleBinding"]
    assert subjects == ["horizontal-pod-autoscaler", "sig"]
    assert "one server in a cluster. KEDA brings its own" in comments(text)


def test_the_rule_for_prometheus_adapter_keeps_absent_series_absent() -> None:
    text = printed("orders", "--for", "prometheus-adapter", "--version", "2")
    config = YAML(typ="safe", pure=True).load(one("ConfigMap", text)["data"]["config.yaml"])
    (rule,) = config["externalRules"]
    series = one("HorizontalPodAutoscaler", text)["spec"]["metrics"][0]["external"]["metric"]["name"]
    assert rule["seriesQuery"] == f'{{__name__="{series}"}}'
    assert rule["resources"] == {"namespaced": False}
    assert rule["metricsQuery"] == "max(<<.Series>>{<<.LabelMatchers>>}) by (service, version)"
    assert series.removeprefix("meshq_scale_") in GAUGES
    assert {"service", "version"} <= set(LABELS)


# --- the direct mode --------------------------------------------------------------------------------------------------------


def test_the_direct_mode_gets_the_rights_that_it_uses_and_its_setting() -> None:
    text = printed("orders@2", "--for", "direct", "--namespace", "shop", "--deployment", "o2", "--min", "1")
    role, binding = one("Role", text), one("RoleBinding", text)
    rights = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert rights == {
        ("deployments/scale", "get"),
        ("deployments/scale", "patch"),
        ("pods", "list"),
        ("pods", "patch"),
        ("horizontalpodautoscalers", "list"),
        ("scaledobjects", "list"),
    }
    assert role["rules"][0]["resourceNames"] == ["o2"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "meshq-signals", "namespace": "shop"}]
    setting = comments(text).partition("MESHQ_SIGNALS_DIRECT=")[2].split()[0]
    assert parse_targets(setting) == (Target("shop", "o2", "orders.v2", 1, 20),)


# --- what stands twice, because the manifests may not import the servers ------------------------------------------------------


def test_the_usual_address_has_the_port_of_the_servers_grpc() -> None:
    (trigger,) = one("ScaledObject", printed("orders", "--for", "keda", "--namespace", "shop"))["spec"]["triggers"]
    assert trigger["metadata"]["scalerAddress"] == f"meshq-signals.shop:{GRPC_PORT}"


@pytest.mark.parametrize(
    "arguments", [("--for", "prometheus-adapter"), ("--for", "keda", "--prometheus", "http://prom.mon:9090")]
)
def test_prometheus_is_told_the_port_of_the_servers_http(arguments: tuple[str, ...]) -> None:
    said = comments(printed("orders", *arguments))
    assert f"Prometheus has to scrape port {HTTP_PORT} of `meshq signals`" in said


def test_the_registered_api_is_the_one_that_is_served_and_looked_up() -> None:
    found = one("APIService", printed("orders", "--for", "hpa", "--with-apiservice"))
    assert found["metadata"]["name"] == EXTERNAL_METRICS
    assert f"{found['spec']['group']}/{found['spec']['version']}" == GROUP_VERSION
    assert f"/apis/{GROUP_VERSION}/namespaces/" in comments(printed("orders", "--for", "hpa"))


def test_the_metric_and_the_series_are_what_the_servers_have() -> None:
    shown = SignalMetrics(GAUGES, LABELS, lambda: rows(ToldSignals(signal("orders", 2, 3))), lambda: None, "1.2.3")
    assert f'\n{SERIES}{{service="orders",topic="orders.v2",version="2"}} 3.0\n' in shown.render().decode()
    assert METRICS[METRIC](signal("orders", 2, 3)) == 3


# --- all of them ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["keda", "hpa", "prometheus-adapter", "direct"])
def test_names_that_yaml_would_take_for_something_else_stay_text(kind: str) -> None:
    text = printed("orders@1", "--for", kind, "--namespace", "123", "--deployment", "on")
    found = documents(text)
    assert {each["metadata"]["namespace"] for each in found} == {"123"}
    assert '"on"' in json.dumps(found)


@pytest.mark.parametrize("kind", ["keda", "hpa", "prometheus-adapter", "direct"])
def test_the_same_question_has_the_same_answer(kind: str) -> None:
    assert printed("orders@1", "--for", kind) == printed("orders", "--version", "1", "--for", kind)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Orders", "--for", "keda"), "is not a service name"),
        (("orders@2", "--version", "3", "--for", "keda"), "names another version already"),
        (("orders", "--version", "two", "--for", "keda"), "is not a major version"),
        (("orders", "--for", "keda", "--min", "9", "--max", "3"), "is above max"),
        (("orders", "--for", "keda", "--wait", "10"), "is not a duration"),
        (("orders", "--for", "keda", "--quantile", "1"), "above 0 and below 1"),
        (("orders", "--for", "keda", "--namespace", "My_NS"), "is not a name in Kubernetes"),
        (("orders", "--for", "keda", "--address", "there"), "is not a host and port"),
        (("orders", "--for", "keda", "--kubernetes", "new"), "is not a version of Kubernetes"),
        (("orders", "--for", "keda", "--prometheus", "prom"), "is not a URL"),
        (("orders", "--for", "keda", "--with-apiservice"), "goes with --for hpa alone"),
        (("orders", "--for", "hpa", "--prometheus", "http://prom"), "goes with --for keda alone"),
        (("orders", "--for", "hpa", "--wait", "5s"), "an HPA cannot tell meshq of it"),
        (("orders", "--for", "direct"), "say which version Deployment orders runs"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(*arguments)
