"""A small Kubernetes API: an HTTPS server with a bearer token that answers in the shapes which Kubernetes documents, for what meshq asks.

No cluster runs here. What the real one does and this does too: counts of 0 are left out of a Scale, a PATCH must be a merge patch, one
that names an older resourceVersion is 409, what the token has no right to is 403, every refusal is a Status object, and a ReplicaSet
that shrinks deletes pods without room first, then those that do not run yet, those that are not ready, those of the lowest deletion
cost."""

import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

from meshq.adapters.kubernetes_access import Access

COST = "controller.kubernetes.io/pod-deletion-cost"
USER = "system:serviceaccount:shop:meshq-signals"
TOKEN = "a-token"
MERGE = "application/merge-patch+json"
POLL = 0.01
"""Seconds until the server sees that it should end."""
REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 415: "UnsupportedMediaType"}


class Refusal(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Deployment:
    replicas: int
    version: int = 1
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class KubeApi:
    """One namespace, `shop`. Tests read and change it between requests."""

    token: str = TOKEN
    deployments: dict[str, Deployment] = field(default_factory=dict)
    autoscalers: dict[str, str] = field(default_factory=dict)
    """HorizontalPodAutoscaler -> its Deployment."""
    scaled_objects: dict[str, str] | None = None
    """ScaledObject -> its Deployment; None: KEDA is not installed."""
    external_metrics: tuple[str, str] | None = None
    """Namespace and name of the service behind v1beta1.external.metrics.k8s.io."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Verbs on resources that the token has no right to: ("patch", "deployments/scale")."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""
    changes_between: bool = False
    """Somebody else changes every Deployment after it was read."""

    def add(self, name: str, replicas: int, ready: bool = True) -> Deployment:
        deployment = self.deployments[name] = Deployment(0)
        self.resize(name, replicas, ready)
        return deployment

    def resize(self, name: str, replicas: int, ready: bool = True) -> None:
        """As the Deployment and its ReplicaSet do it, at once."""
        deployment = self.deployments[name]
        deployment.replicas = replicas
        deployment.version += 1
        order = sorted(deployment.pods, key=lambda each: _rank(deployment.pods[each]))
        for pod in order[: max(0, len(order) - replicas)]:
            del deployment.pods[pod]
        numbers = (number for number in range(1000) if f"{name}-{number}" not in deployment.pods)
        while len(deployment.pods) < replicas:
            number = next(numbers)
            deployment.pods[f"{name}-{number}"] = _pod(name, number, ready)

    def unready(self, pod: str) -> None:
        """Its readiness probe fails."""
        for deployment in self.deployments.values():
            if pod in deployment.pods:
                deployment.pods[pod]["status"]["conditions"][0]["status"] = "False"

    def costs(self, name: str) -> Mapping[str, str]:
        found = {each: pod["metadata"]["annotations"].get(COST) for each, pod in self.deployments[name].pods.items()}
        return {pod: cost for pod, cost in found.items() if cost is not None}

    def patched(self) -> Sequence[str]:
        return [path.partition("/namespaces/shop/")[2] for method, path in self.asked if method == "PATCH"]

    # --- the API ------------------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> dict[str, Any]:
        """Raises Refusal."""
        path = urlsplit(target).path
        self.asked.append((method, path))
        if headers.get("Authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Unauthorized")
        if method == "PATCH" and headers.get("Content-Type") != MERGE:
            raise Refusal(
                415, f"the body of the request was in an unknown format - accepted media types include: {MERGE}"
            )
        match method, path.strip("/").split("/"):
            case "GET", ["apis", "apps", "v1", "namespaces", "shop", "deployments", name, "scale"]:
                return self._scale(name)
            case "PATCH", ["apis", "apps", "v1", "namespaces", "shop", "deployments", name, "scale"]:
                return self._rescale(name, json.loads(body))
            case "GET", ["api", "v1", "namespaces", "shop", "pods"]:
                return self._pods(parse_qs(urlsplit(target).query)["labelSelector"][0])
            case "PATCH", ["api", "v1", "namespaces", "shop", "pods", name]:
                return self._annotate(name, json.loads(body))
            case "GET", ["apis", "autoscaling", "v2", "namespaces", "shop", "horizontalpodautoscalers"]:
                return self._autoscalers()
            case "GET", ["apis", "keda.sh", "v1alpha1", "namespaces", "shop", "scaledobjects"]:
                return self._scaled_objects()
            case "GET", ["apis", "apiregistration.k8s.io", "v1", "apiservices", name]:
                return self._api_service(name)
        raise Refusal(404, "the server could not find the requested resource")

    def _scale(self, name: str) -> dict[str, Any]:
        self._may("get", "deployments/scale", "apps", name)
        deployment = self._deployment(name)
        answer = _scale(name, deployment)
        if self.changes_between:
            deployment.version += 1
        return answer

    def _rescale(self, name: str, change: dict[str, Any]) -> dict[str, Any]:
        self._may("patch", "deployments/scale", "apps", name)
        deployment = self._deployment(name)
        if change.get("metadata", {}).get("resourceVersion", str(deployment.version)) != str(deployment.version):
            raise Refusal(
                409,
                f'Operation cannot be fulfilled on deployments.apps "{name}": the object has been modified; please apply your '
                "changes to the latest version and try again",
            )
        self.resize(name, change["spec"]["replicas"])
        return _scale(name, deployment)

    def _pods(self, selector: str) -> dict[str, Any]:
        self._may("list", "pods", "")
        name = selector.removeprefix("app=")
        found = self.deployments[name].pods.values() if name in self.deployments else []
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": list(found)}

    def _annotate(self, name: str, change: dict[str, Any]) -> dict[str, Any]:
        self._may("patch", "pods", "", name)
        for deployment in self.deployments.values():
            if name in deployment.pods:
                deployment.pods[name]["metadata"]["annotations"].update(change["metadata"]["annotations"])
                return deployment.pods[name]
        raise Refusal(404, f'pods "{name}" not found')

    def _autoscalers(self) -> dict[str, Any]:
        self._may("list", "horizontalpodautoscalers", "autoscaling")
        items = [
            {
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"scaleTargetRef": _reference(to), "maxReplicas": 5},
            }
            for name, to in self.autoscalers.items()
        ]
        return {"kind": "HorizontalPodAutoscalerList", "apiVersion": "autoscaling/v2", "metadata": {}, "items": items}

    def _scaled_objects(self) -> dict[str, Any]:
        self._may("list", "scaledobjects", "keda.sh")
        if self.scaled_objects is None:
            raise Refusal(404, "the server could not find the requested resource")
        items = [
            {"metadata": {"name": name, "namespace": "shop"}, "spec": {"scaleTargetRef": {"name": to}, "triggers": []}}
            for name, to in self.scaled_objects.items()
        ]
        return {"kind": "ScaledObjectList", "apiVersion": "keda.sh/v1alpha1", "metadata": {}, "items": items}

    def _api_service(self, name: str) -> dict[str, Any]:
        self._may("get", "apiservices", "apiregistration.k8s.io", name)
        if name != "v1beta1.external.metrics.k8s.io" or self.external_metrics is None:
            raise Refusal(404, f'apiservices.apiregistration.k8s.io "{name}" not found')
        namespace, service = self.external_metrics
        return {
            "kind": "APIService",
            "apiVersion": "apiregistration.k8s.io/v1",
            "metadata": {"name": name},
            "spec": {
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"namespace": namespace, "name": service, "port": 443},
            },
        }

    def _deployment(self, name: str) -> Deployment:
        if name not in self.deployments:
            raise Refusal(404, f'deployments.apps "{name}" not found')
        return self.deployments[name]

    def _may(self, verb: str, resource: str, group: str, name: str = "") -> None:
        if (verb, resource) in self.forbidden:
            kind = ".".join(part for part in (resource.partition("/")[0], group) if part)
            raise Refusal(
                403,
                f"{kind} {json.dumps(name) + ' ' if name else ''}is forbidden: User {json.dumps(USER)} cannot {verb} resource "
                f'{json.dumps(resource)} in API group {json.dumps(group)} in the namespace "shop"',
            )


def _rank(pod: dict[str, Any]) -> tuple[bool, bool, bool, int]:
    status, cost = pod["status"], int(pod["metadata"]["annotations"].get(COST, "0"))
    conditions = {each["type"]: each["status"] for each in status["conditions"]}
    return (
        conditions.get("PodScheduled") != "False",
        status["phase"] != "Pending",
        conditions["Ready"] == "True",
        cost,
    )


def _pod(app: str, number: int, ready: bool) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": f"{app}-{number}", "namespace": "shop", "labels": {"app": app}, "annotations": {}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
        "status": {
            "phase": "Running" if ready else "Pending",
            "podIP": f"10.0.0.{number + 1}",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def _scale(name: str, deployment: Deployment) -> dict[str, Any]:
    spec = {"replicas": deployment.replicas} if deployment.replicas else {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": str(deployment.version)},
        "spec": spec,
        "status": {"replicas": deployment.replicas, "selector": f"app={name}"},
    }


def _reference(deployment: str) -> dict[str, str]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment}


def _status(refusal: Refusal) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(refusal),
        "reason": REASONS[refusal.code],
        "code": refusal.code,
    }


# --- the server -------------------------------------------------------------------------------------------------------------


@contextmanager
def serving(api: KubeApi, folder: Path) -> Iterator[Access]:
    """On a free port. `folder` gets the files that a pod's service account has."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    (folder / "token").write_text(api.token)
    server = _Server(("127.0.0.1", 0), _handler(api))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(POLL,))
    thread.start()
    try:
        yield Access(f"https://127.0.0.1:{server.server_port}", folder / "token", folder / "ca.crt")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that does not trust the certificate breaks off, and that is a test."""


def _handler(api: KubeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_PATCH(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            code = 200
            try:
                answer = api.answer(self.command, self.path, self.headers, body)
            except Refusal as refusal:
                code, answer = refusal.code, _status(refusal)
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test's output is its result."""

    return Handler
