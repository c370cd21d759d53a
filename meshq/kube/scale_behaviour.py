"""What KEDA's HPAs and plain ones share: that they follow at once and by single replicas, because meshq has damped its figure already."""

from meshq.kube.scale_plan import TOLERANCE_KNOWN, TOLERANCE_ON, Plan
from meshq.kube.scale_text import note

_IGNORED = "a change of 10 % or less is ignored: with more than 10 replicas, one more or one less never happens"


def behaviour(plan: Plan) -> str:
    """What is in the map `behavior`."""
    tolerance = '  tolerance: "0"\n' if plan.kubernetes >= TOLERANCE_KNOWN else ""
    return f"""\
{_notes(plan)}\
scaleUp:
  stabilizationWindowSeconds: 0
{tolerance}\
  policies: # in one step; usually no more than 4 pods, or as many as there are, in 15 s
  - type: Pods
    value: {plan.max}
    periodSeconds: 15
scaleDown:
  stabilizationWindowSeconds: 0
{tolerance}\
  policies:
  - type: Percent
    value: 100
    periodSeconds: 15
"""


def _notes(plan: Plan) -> str:
    window = (
        "meshq damps its figure itself. With the usual 300 s in scaleDown an HPA would hold the highest figure of the last 5 min on "
        "top of that."
    )
    return note(window) + note(_tolerance(plan))


def _tolerance(plan: Plan) -> str:
    if plan.kubernetes >= TOLERANCE_ON:
        return f"Without a tolerance of 0, {_IGNORED}."
    if plan.kubernetes >= TOLERANCE_KNOWN:
        return (
            "WARNING: in Kubernetes 1.33 and 1.34 `tolerance` needs the feature gate HPAConfigurableTolerance, which is on from 1.35 "
            f"on. Where it is off, the field is dropped, and {_IGNORED}."
        )
    return (
        f"WARNING: Kubernetes before 1.33 has no `tolerance`: {_IGNORED}, unless kube-controller-manager runs with "
        "--horizontal-pod-autoscaler-tolerance=0. The direct mode (--for direct) follows every change."
    )
