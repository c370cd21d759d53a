"""The HorizontalPodAutoscaler for clusters without KEDA, by an external metric."""

import json
from textwrap import indent
from urllib.parse import quote

from meshq.kube.scale_behaviour import behaviour
from meshq.kube.scale_plan import METRIC, BadPlan, Plan, labels, without_wishes
from meshq.kube.scale_text import REPLICAS, header, name, note


def hpa(plan: Plan) -> str:
    """Raises BadPlan for what an HPA cannot do."""
    without_wishes(plan, "an HPA")
    about = about_hpa(
        plan,
        METRIC,
        "It asks meshq through the API of external metrics, which has one server in a cluster. KEDA brings its own: where KEDA is "
        "installed, use --for keda. Where nobody serves it yet, --with-apiservice prints what makes `meshq signals` that server.",
        "While meshq has no fresh figures it answers 503, and the HPA leaves the replicas as they are.",
    )
    return f"{about}{document(plan, METRIC)}"


def about_hpa(plan: Plan, metric: str, *points: str) -> str:
    """The comment before an HPA."""
    asked = quote(",".join(f"{label}={value}" for label, value in labels(plan).items()))
    path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{plan.namespace}/{metric}?labelSelector={asked}"
    several = "Each version has a Deployment of its own, so name it (--version) where there are two."
    return header(
        f"An HPA scales Deployment {plan.namespace}/{plan.target} as meshq wants it for {plan.of}.",
        *points,
        f"What it is told: kubectl get --raw '{path}'",
        REPLICAS,
        f"No version is named: the HPA adds up the figures of all. {several}" if plan.major is None else "",
    )


def document(plan: Plan, metric: str) -> str:
    """The HPA itself. Raises BadPlan for a `min` of 0 that the cluster would refuse."""
    matched = "".join(f"{label}: {json.dumps(value)}\n" for label, value in labels(plan).items())
    return f"""\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {plan.name}
  namespace: {name(plan.namespace)}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {name(plan.target)}
{indent(_least(plan), "  ")}\
  maxReplicas: {plan.max}
  behavior:
{indent(behaviour(plan), " " * 4)}\
  metrics:
  - type: External
    external:
      metric:
        name: {metric}
        selector:
          matchLabels:
{indent(matched, " " * 12)}\
      target: # the figure is the number of replicas: AverageValue over 1 makes just that of it, Value would not
        type: AverageValue
        averageValue: "1"
"""


def _least(plan: Plan) -> str:
    least = plan.min or 0
    if plan.hpa_to_zero:
        late = "From 0 it wakes when the HPA looks next, up to 15 s later. KEDA and the direct mode are told at once."
        return f"{'' if least else note(late)}minReplicas: {least}\n"
    if plan.min == 0:
        raise BadPlan(
            "--min",
            "an HPA goes down to 1: for 0 it needs the feature gate HPAScaleToZero, which is off before Kubernetes 1.37. Say "
            "--scale-to-zero where it is on, or use --for keda or --for direct",
        )
    why = "0 needs the feature gate HPAScaleToZero (on from Kubernetes 1.37 on). KEDA and the direct mode go to zero without it."
    return f"{'' if least else note(why)}minReplicas: {max(1, least)}\n"
