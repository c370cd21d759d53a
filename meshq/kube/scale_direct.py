"""What the direct mode needs: its setting, and the rights of `meshq signals` in the namespace of the Deployment."""

from meshq.core.names import topic
from meshq.kube.scale_plan import BadPlan, Plan, without_wishes
from meshq.kube.scale_text import REPLICAS, header, name

VARIABLE = "MESHQ_SIGNALS_DIRECT"


def direct(plan: Plan) -> str:
    """Raises BadPlan where no version is named."""
    without_wishes(plan, "the direct mode")
    if plan.major is None:
        raise BadPlan("--version", f"say which version Deployment {plan.target} runs: --version 2")
    server = plan.server
    about = header(
        f"`meshq signals` sets the replicas of Deployment {plan.namespace}/{plan.target} by itself, as it wants them for {plan.of}.",
        f"Its setting; more Deployments follow after a comma: {VARIABLE}={plan.namespace}/{plan.target}="
        f"{topic(plan.service, plan.major)}:{plan.min or 0}-{plan.max}",
        f"It runs as the service account {server.name} in {server.namespace}, which gets its rights here.",
        "Of several replicas of `meshq signals` the one that leads acts. Before it takes pods away it tells the least busy instances to "
        "drain, and marks their pods as those that go once they have finished.",
        f"Nothing else may scale {plan.target}: where an HPA or a ScaledObject does, `meshq signals` refuses to.",
        REPLICAS,
    )
    return f"""\
{about}\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {plan.name}
  namespace: {name(plan.namespace)}
rules:
- apiGroups: [apps]
  resources: [deployments/scale]
  resourceNames: [{name(plan.target)}]
  verbs: [get, patch]
- apiGroups: [""] # to mark who goes: controller.kubernetes.io/pod-deletion-cost
  resources: [pods]
  verbs: [list, patch]
- apiGroups: [autoscaling] # to see whether something else scales it, as the next
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {plan.name}
  namespace: {name(plan.namespace)}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {plan.name}
subjects:
- kind: ServiceAccount
  name: {name(server.name)}
  namespace: {name(server.namespace)}
"""
