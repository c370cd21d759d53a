"""Manifests that let a cluster follow meshq's figures: of each way to scale, the documents that work as they are printed, with the
traps of that way explained where they are."""

from meshq.kube import scale_apiservice, scale_direct, scale_hpa, scale_keda, scale_prometheus
from meshq.kube.scale_plan import BadPlan, Plan, check

KINDS = ("keda", "hpa", "prometheus-adapter", "direct")


def manifest(plan: Plan, kind: str) -> str:
    """YAML documents, separated by `---`. `kind`: one of KINDS. Raises BadPlan."""
    check(plan)
    if plan.prometheus and kind != "keda":
        raise BadPlan("--prometheus", "goes with --for keda alone: prometheus-adapter has its own")
    if plan.with_apiservice and kind != "hpa":
        raise BadPlan("--with-apiservice", "goes with --for hpa alone: that needs the API of external metrics")
    match kind:
        case "keda":
            return scale_keda.prometheus(plan) if plan.prometheus else scale_keda.push(plan)
        case "hpa" if plan.with_apiservice:
            return f"{scale_hpa.hpa(plan)}---\n{scale_apiservice.api_service(plan)}"
        case "hpa":
            return scale_hpa.hpa(plan)
        case "prometheus-adapter":
            return scale_prometheus.adapter(plan)
        case "direct":
            return scale_direct.direct(plan)
    raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
