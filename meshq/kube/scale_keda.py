"""The ScaledObject, by which KEDA follows meshq: through the external-push scaler, or through Prometheus."""

import json
from textwrap import indent

from meshq.kube.scale_behaviour import behaviour
from meshq.kube.scale_plan import SERIES, Plan, labels, wishes, without_wishes
from meshq.kube.scale_text import REPLICAS, header, name

FALLBACK = (
    "There is no `fallback`, and that is meant. While meshq has no fresh figures it answers UNAVAILABLE, and KEDA leaves the replicas "
    "as they are; a fallback would put a fixed number in their place. It would not help either where KEDA does not reach meshq "
    "(keda#8056, keda#5525), nor lead out of zero (keda#7239)."
)
TLS = (
    'Where `meshq signals` has a certificate (MESHQ_SIGNALS_CERT), KEDA has to speak TLS: put `enableTLS: "true"` into the trigger\'s '
    "metadata, and the certificate's authority as `caCert` into a TriggerAuthentication."
)
COOLDOWN = """\
  # Only for the last step to zero, and on top of the idle time that meshq has waited for by then. With the
  # usual 300 s the last pod would stay 5 min longer.
  cooldownPeriod: 15
"""


def push(plan: Plan) -> str:
    metadata = {"scalerAddress": plan.signals, **labels(plan), **wishes(plan)}
    lines = "".join(f"      {key}: {json.dumps(value)}\n" for key, value in metadata.items())
    about = header(
        f"KEDA scales Deployment {plan.namespace}/{plan.target} as meshq wants it for {plan.of}.",
        f"Apply this when `meshq signals` answers at {plan.signals}. Where KEDA does not reach it at first, it may make an HPA for 80 % "
        f"CPU and leave it so (keda#7729): then delete the HPA keda-hpa-{plan.name}, and KEDA makes the right one.",
        REPLICAS,
        _alone(plan),
        FALLBACK,
        TLS,
        _one_version(plan, "the highest version that there is decides"),
    )
    return f"""\
{about}\
{_head(plan)}\
  # From zero the push trigger wakes at once. KEDA asks this often as well, for the way back to zero; from 1 on
  # its HPA asks, every 15 s.
  pollingInterval: 15
{COOLDOWN}\
{_behaviour(plan)}\
  triggers:
  - type: external-push
    # The figure is the number of replicas, and meshq names a target of 1: AverageValue makes just that number of
    # it, Value would multiply it by the pods that are ready.
    metricType: AverageValue
    metadata: # text alone: numbers need their quotes
{lines}"""


def prometheus(plan: Plan) -> str:
    """Raises BadPlan for wishes, which Prometheus passes on to nobody."""
    without_wishes(plan, "Prometheus")
    matching = ",".join(f'{label}="{value}"' for label, value in labels(plan).items())
    about = header(
        f"KEDA scales Deployment {plan.namespace}/{plan.target} as meshq wants it for {plan.of}, by what Prometheus has of it.",
        "Nothing is pushed on this way: from zero it wakes after a scrape and a poll. Without --prometheus KEDA asks meshq itself, and "
        "is told at once.",
        "Prometheus has to scrape port 3592 of `meshq signals`, every 15 s or more often.",
        REPLICAS,
        _alone(plan),
        _one_version(plan, "the version that wants the most replicas decides"),
    )
    return f"""\
{about}\
{_head(plan)}\
  pollingInterval: 5 # for the ways to zero and out of it; from 1 on the HPA asks, every 15 s
{COOLDOWN}\
{_behaviour(plan)}\
  triggers:
  - type: prometheus
    metricType: AverageValue # Value would multiply the figure by the pods that are ready
    metadata: # text alone: numbers need their quotes
      serverAddress: {json.dumps(plan.prometheus)}
      # max, because every replica of `meshq signals` has the series. Add no `or vector(0)`: what is absent is not
      # known, which is not 0.
      query: {json.dumps(f"max({SERIES}{{{matching}}})")}
      threshold: "1"
      # Usually "true": what is absent would count as 0 and end every pod. With "false" KEDA leaves them.
      ignoreNullValues: "false"
"""


def _alone(plan: Plan) -> str:
    return f"Nothing else may scale {plan.target}: no HPA, no other ScaledObject, no direct mode of meshq."


def _one_version(plan: Plan, what: str) -> str:
    if plan.major is not None:
        return ""
    return f"No version is named: {what}. Each version has a Deployment of its own, so name it where there are two."


def _head(plan: Plan) -> str:
    return f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {plan.name}
  namespace: {name(plan.namespace)}
spec:
  scaleTargetRef:
    name: {name(plan.target)}
  minReplicaCount: {plan.min or 0}
  maxReplicaCount: {plan.max}
"""


def _behaviour(plan: Plan) -> str:
    return f"""\
  advanced:
    horizontalPodAutoscalerConfig:
      behavior: # KEDA hands it to its HPA, `tolerance` from KEDA 2.18 on
{indent(behaviour(plan), " " * 8)}"""
