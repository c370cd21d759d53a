"""examples/kubernetes/pod.yaml fits the sidecar: its settings, its ports, its image."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from meshq import __version__
from meshq.settings import Settings, load

POD = Path(__file__).parents[2] / "examples" / "kubernetes" / "pod.yaml"
SECRETS = {"broker-url": "amqp://greeter:secret@rabbitmq:5672/default", "registry-url": "redis://:secret@redis:6379"}


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(POD)["spec"]
    return found


@pytest.fixture(scope="module")
def sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["initContainers"]
    return dict(found)


def _value(entry: dict[str, Any]) -> str:
    if "value" in entry:
        assert isinstance(entry["value"], str), "Kubernetes takes strings only: put it in quotes"
        return entry["value"]
    source = entry["valueFrom"]
    return SECRETS[source["secretKeyRef"]["key"]] if "secretKeyRef" in source else "greeter"


@pytest.fixture(scope="module")
def found(sidecar: dict[str, Any]) -> Settings:
    return load({entry["name"]: _value(entry) for entry in sidecar["env"]})


def test_the_sidecar_takes_its_settings(pod: dict[str, Any], found: Settings) -> None:
    assert (found.service, found.app_port, found.instance) == ("greeter", 8000, "greeter")
    assert found.drain_timeout < pod["terminationGracePeriodSeconds"]


def test_credentials_come_from_a_secret(sidecar: dict[str, Any]) -> None:
    secret = {entry["name"] for entry in sidecar["env"] if "secretKeyRef" in entry.get("valueFrom", {})}
    assert secret == {"MESHQ_BROKER_URL", "MESHQ_REGISTRY_URL"}


def test_it_is_a_native_sidecar_of_this_version(sidecar: dict[str, Any]) -> None:
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["image"] == f"meshq-sidecar:{__version__}"


def test_its_probes_ask_the_admin_port(sidecar: dict[str, Any], found: Settings) -> None:
    (port,) = sidecar["ports"]
    assert port["containerPort"] == found.admin_port
    probes = {name: sidecar[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {get["port"] for get in probes.values()} == {port["name"]}
    # The app starts after the start-up probe succeeded, so that one must not wait for the app.
    assert {name: get["path"] for name, get in probes.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }


def test_every_container_is_locked_down(pod: dict[str, Any]) -> None:
    for container in [*pod["initContainers"], *pod["containers"]]:
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_the_apps_code_compiles(pod: dict[str, Any]) -> None:
    (app,) = pod["containers"]
    compile(app["args"][0], "app", "exec")
    compile(app["lifecycle"]["preStop"]["exec"]["command"][2], "preStop", "exec")
