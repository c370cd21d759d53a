"""What a manifest for scaling is asked to say, checked, and what all kinds of them share.

Facts about Kubernetes that the manifests rest on: per-HPA tolerances came behind a feature gate in 1.33, off, and are on from 1.35 (a
kube-apiserver without them drops the field); an HPA with `minReplicas: 0` is accepted behind a gate that is off until 1.36 and on from
1.37.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from meshq.core.names import BadName, check_service, parse_major
from meshq.core.policy_fields import BadPolicy
from meshq.core.scaling_policy import read_policy
from meshq.core.scaling_values import DEFAULT_MAX

METRIC = "meshq-desired-replicas"
"""Of the External Metrics API."""
SERIES = "meshq_scale_desired_replicas"
"""Of Prometheus."""
GRPC_PORT = 3591
SERVER = "meshq-signals"
"""The usual name of the servers' Service and service account."""

TOLERANCE_KNOWN, TOLERANCE_ON, ZERO_ON = (1, 33), (1, 35), (1, 37)
"""Versions of Kubernetes; see above."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_ADDRESS = re.compile(r"([a-z0-9.-]{1,253}|\[[0-9a-f:.]+\]):([0-9]{1,5})", re.ASCII)
_KUBERNETES = re.compile(r"v?(1)\.([0-9]{1,3})(\..*)?", re.ASCII)
_URL = re.compile(r"https?://[!#-;=?-~]+", re.ASCII)


class BadPlan(ValueError):
    """One option that is wrong, or that does not go with another; the message says why and what to do."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class Server(NamedTuple):
    """The Service of `meshq signals`."""

    name: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`check` says whether it makes sense."""

    service: str
    major: int | None = None
    """None: the service has one version."""
    namespace: str = "default"
    deployment: str = ""
    """As the service where it is ""."""
    min: int | None = None
    """None: as low as the way of scaling can go."""
    max: int = DEFAULT_MAX
    wait: str | None = None
    """None: as the service's scaling policy says, as for `quantile`."""
    quantile: float | None = None
    address: str = ""
    """Of `meshq signals`, host and port of its gRPC; "": `meshq-signals` in the same namespace."""
    kubernetes: tuple[int, int] = TOLERANCE_ON
    prometheus: str = ""
    """URL that KEDA asks Prometheus at, instead of asking meshq."""
    scale_to_zero: bool = False
    """The cluster has the feature gate HPAScaleToZero on."""
    with_apiservice: bool = False

    @property
    def target(self) -> str:
        """The Deployment."""
        return self.deployment or self.service

    @property
    def name(self) -> str:
        """Of what is made for it."""
        return f"meshq-{self.service}" if self.major is None else f"meshq-{self.service}-v{self.major}"

    @property
    def of(self) -> str:
        """For comments."""
        return self.service if self.major is None else f"{self.service}.v{self.major}"

    @property
    def signals(self) -> str:
        return self.address or f"{SERVER}.{self.namespace}:{GRPC_PORT}"

    @property
    def server(self) -> Server:
        """As the address names it; its usual name where that is no name of a Service."""
        first, _, rest = self.signals.rpartition(":")[0].partition(".")
        if _SERVICE.fullmatch(first) is None:
            return Server(SERVER, self.namespace)
        return Server(first, rest.partition(".")[0] or self.namespace)

    @property
    def hpa_to_zero(self) -> bool:
        """Whether the cluster accepts an HPA that goes to zero."""
        return self.scale_to_zero or self.kubernetes >= ZERO_ON


def check(plan: Plan) -> None:
    """Raises BadPlan."""
    try:
        check_service(plan.service)
    except BadName as error:
        raise BadPlan("SERVICE", str(error)) from error
    for option, name in (("--namespace", plan.namespace), ("--deployment", plan.target)):
        if _LABEL.fullmatch(name) is None:
            raise BadPlan(
                option, f"{name[:80]!r} is not a name in Kubernetes: letters a-z, digits and hyphens, up to 63"
            )
    _check_policy(plan)
    _check_addresses(plan)


def _check_policy(plan: Plan) -> None:
    given = {"wait": plan.wait, "quantile": plan.quantile, "min": plan.min, "max": plan.max}
    try:
        read_policy({key: value for key, value in given.items() if value is not None})
    except BadPolicy as error:
        key, message = error.faults[0]
        raise BadPlan(f"--{key}", message) from error


def _check_addresses(plan: Plan) -> None:
    match = _ADDRESS.fullmatch(plan.signals)
    if match is None or not 0 < int(match[2]) < 65536:
        raise BadPlan("--address", f"{plan.address[:80]!r} is not a host and port such as {SERVER}.meshq:{GRPC_PORT}")
    if plan.prometheus and _URL.fullmatch(plan.prometheus) is None:
        raise BadPlan(
            "--prometheus", f"{plan.prometheus[:80]!r} is not a URL such as http://prometheus.monitoring:9090"
        )


def parse_kubernetes(text: str) -> tuple[int, int]:
    """`1.34`, `v1.34.2` -> (1, 34). Raises BadPlan."""
    match = _KUBERNETES.fullmatch(text.strip())
    if match is None:
        raise BadPlan("--kubernetes", f"{text[:40]!r} is not a version of Kubernetes such as 1.35")
    return int(match[1]), int(match[2])


def parse_version(text: str) -> int:
    """Raises BadPlan."""
    try:
        return parse_major(text)
    except BadName as error:
        raise BadPlan("--version", str(error)) from error


def wishes(plan: Plan) -> dict[str, str]:
    """What differs from the service's scaling policy, as KEDA's metadata has it: text alone."""
    said = {
        "min": None if plan.min is None else str(plan.min),
        "max": str(plan.max),
        "wait": plan.wait,
        "quantile": None if plan.quantile is None else f"{plan.quantile:g}",
    }
    return {key: value for key, value in said.items() if value is not None}


def without_wishes(plan: Plan, what: str) -> None:
    """Raises BadPlan where something is wished that `what` cannot pass on."""
    for option, value in (("--wait", plan.wait), ("--quantile", plan.quantile)):
        if value is not None:
            raise BadPlan(
                option,
                f"{what} cannot tell meshq of it: leave it out, and set it in the scaling policy of {plan.service}",
            )


def labels(plan: Plan) -> dict[str, str]:
    """Of what is to be scaled, as KEDA's metadata, series and external metrics have them."""
    return {"service": plan.service, **({} if plan.major is None else {"version": str(plan.major)})}
