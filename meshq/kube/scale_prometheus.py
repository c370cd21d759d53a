"""For prometheus-adapter: the rule that makes an external metric of meshq's series, and the HPA that follows it."""

from meshq.kube.scale_hpa import about_hpa, document
from meshq.kube.scale_plan import SERIES, Plan, without_wishes
from meshq.kube.scale_text import header, name

CONFIG = "meshq-prometheus-adapter"


def adapter(plan: Plan) -> str:
    """Raises BadPlan for what an HPA cannot do."""
    without_wishes(plan, "prometheus-adapter")
    hpa = about_hpa(
        plan,
        SERIES,
        "While meshq has no fresh figures there is no series, and the HPA leaves the replicas as they are.",
    )
    return f"{_rule(plan)}---\n{hpa}{document(plan, SERIES)}"


def _rule(plan: Plan) -> str:
    about = header(
        "prometheus-adapter makes an external metric of meshq's series. The rule serves all services: it is there once.",
        f"Give this ConfigMap to the adapter (its Helm chart, in the same namespace: `rules.existing: {CONFIG}`). That takes the place "
        "of all its rules: where it has others, add this one to them instead (`rules.external`).",
        "Prometheus has to scrape port 3592 of `meshq signals`. The adapter's --metrics-relist-interval must not be shorter than the "
        "time between two scrapes, or the metric comes and goes.",
        "The API of external metrics has one server in a cluster: neither KEDA nor `meshq signals` besides the adapter.",
    )
    return f"""\
{about}\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {CONFIG}
  namespace: {name(plan.namespace)}
data:
  config.yaml: |
    externalRules:
    - seriesQuery: '{{__name__="{SERIES}"}}'
      resources:
        namespaced: false # else only series that have the namespace of the HPA would count
      # max, because every replica of `meshq signals` has the series, and an HPA adds up what it gets. Add no
      # `or vector(0)`: what is absent is not known, which is not 0.
      metricsQuery: 'max(<<.Series>>{{<<.LabelMatchers>>}}) by (service, version)'
"""
