"""What makes `meshq signals` the server of external metrics of a cluster: once for all services."""

from meshq.kube.scale_plan import Plan, Server
from meshq.kube.scale_text import header, name, note

PORT = 3593
"""On which `meshq signals` serves the API of external metrics over TLS."""
API = "v1beta1.external.metrics.k8s.io"


def api_service(plan: Plan) -> str:
    server = plan.server
    about = header(
        "Once in a cluster: `meshq signals` serves the API of external metrics.",
        f"Its pods have the label app.kubernetes.io/name: {server.name} and the service account {server.name}.",
        "It looks at start whether another server does, and then does not.",
    )
    return f"{about}{_service(server)}---\n{_registration(server)}---\n{_rights(server)}"


def _service(server: Server) -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {name(server.name)}
  namespace: {name(server.namespace)}
spec:
  selector:
    app.kubernetes.io/name: {name(server.name)}
  ports:
  - name: keda
    port: 3591
  - name: http
    port: 3592
  - name: external-metrics
    port: 443
    targetPort: {PORT}
"""


def _registration(server: Server) -> str:
    return f"""\
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata:
  name: {API}
spec:
  group: external.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  # The kube-apiserver does not check who answers. To have it check, give the certificate the name
  # {server.name}.{server.namespace}.svc, and put its authority in the place of this line: `caBundle: <PEM in base64>`.
  insecureSkipTLSVerify: true
  service:
    name: {name(server.name)}
    namespace: {name(server.namespace)}
    port: 443
"""


def _rights(server: Server) -> str:
    readers = "The HPA controller may read external metrics. Many clusters allow that already; twice does no harm."
    looks = "`meshq signals` may look who serves the API of external metrics."
    read = '- apiGroups: [external.metrics.k8s.io]\n  resources: ["*"]\n  verbs: [get, list]\n'
    look = (
        f"- apiGroups: [apiregistration.k8s.io]\n  resources: [apiservices]\n  resourceNames: [{API}]\n  verbs: [get]\n"
    )
    return (
        f"{note(readers)}{_role('meshq-external-metrics', read, Server('horizontal-pod-autoscaler', 'kube-system'))}---\n"
        f"{note(looks)}{_role('meshq-signals', look, server)}"
    )


def _role(role: str, rules: str, account: Server) -> str:
    return f"""\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {role}
rules:
{rules}\
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {role}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {role}
subjects:
- kind: ServiceAccount
  name: {name(account.name)}
  namespace: {name(account.namespace)}
"""
