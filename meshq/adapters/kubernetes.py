"""The Kubernetes API, as far as scaling needs it: the /scale of Deployments, the deletion cost of their pods, who else scales them, and
who serves external metrics.

The official client's typed requests cost 160 MB and 3 s of start, most of it for kinds that are not used here; that is paid only where
this file is imported."""

from collections.abc import Sequence
from typing import Any

from kubernetes.aio import client
from kubernetes.aio.client.exceptions import NotFoundException

from meshq.adapters.kubernetes_access import Access, configuration
from meshq.adapters.kubernetes_faults import translated
from meshq.core.cluster import Pod, Scale

SECONDS = 5.0
"""The longest that one request may take."""
COST = "controller.kubernetes.io/pod-deletion-cost"
EXTERNAL_METRICS = "v1beta1.external.metrics.k8s.io"
MERGE = "application/merge-patch+json"


class Kubernetes:
    """Within a running event loop. Every method may raise ClusterFault, whose message says what to do."""

    def __init__(self, access: Access) -> None:
        self._where = access.url
        with translated(self._where, "the service account"):
            self._api = client.ApiClient(configuration(access))
        self._apps = client.AppsV1Api(self._api)
        self._core = client.CoreV1Api(self._api)
        self._autoscaling = client.AutoscalingV2Api(self._api)
        self._custom = client.CustomObjectsApi(self._api)
        self._registration = client.ApiregistrationV1Api(self._api)

    async def close(self) -> None:
        await self._api.rest_client.close()

    async def scale(self, namespace: str, deployment: str) -> Scale:
        with translated(self._where, f"Deployment {namespace}/{deployment}"):
            found = await self._apps.read_namespaced_deployment_scale(deployment, namespace, _request_timeout=SECONDS)
        # A count of 0 is left out of the answer.
        replicas = (found.spec and found.spec.replicas) or 0
        selector = (found.status and found.status.selector) or ""
        return Scale(replicas, selector, (found.metadata and found.metadata.resource_version) or "")

    async def set_replicas(self, namespace: str, deployment: str, replicas: int, version: str) -> None:
        """A fault too if the Deployment is not of `version` any more: somebody else has changed it."""
        change = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        with translated(self._where, f"Deployment {namespace}/{deployment}"):
            await self._apps.patch_namespaced_deployment_scale(
                deployment, namespace, change, _content_type=MERGE, _request_timeout=SECONDS
            )

    async def pods(self, namespace: str, selector: str) -> Sequence[Pod]:
        """Those that run or will; finished ones are left out."""
        with translated(self._where, f"the pods {selector} of {namespace}"):
            found = await self._core.list_namespaced_pod(namespace, label_selector=selector, _request_timeout=SECONDS)
        return [_pod(each) for each in found.items if not _is_over(each)]

    async def set_deletion_cost(self, namespace: str, pod: str, cost: int) -> None:
        change = {"metadata": {"annotations": {COST: str(cost)}}}
        with translated(self._where, f"Pod {namespace}/{pod}"):
            await self._core.patch_namespaced_pod(pod, namespace, change, _content_type=MERGE, _request_timeout=SECONDS)

    async def scalers(self, namespace: str, deployment: str) -> Sequence[str]:
        """What else scales it: `HorizontalPodAutoscaler orders`, `ScaledObject orders`."""
        with translated(self._where, f"the HorizontalPodAutoscalers of {namespace}"):
            found = await self._autoscaling.list_namespaced_horizontal_pod_autoscaler(
                namespace, _request_timeout=SECONDS
            )
        targets = [(each.metadata, each.spec and each.spec.scale_target_ref) for each in found.items]
        names = [
            f"HorizontalPodAutoscaler {metadata.name if metadata else ''}"
            for metadata, target in targets
            if target and target.kind == "Deployment" and target.name == deployment
        ]
        return [*names, *[f"ScaledObject {name}" for name in await self._scaled_objects(namespace, deployment)]]

    async def _scaled_objects(self, namespace: str, deployment: str) -> Sequence[str]:
        """Their names; none where KEDA is not installed."""
        with translated(self._where, f"the ScaledObjects of {namespace}"):
            try:
                found: Any = await self._custom.list_namespaced_custom_object(
                    "keda.sh", "v1alpha1", namespace, "scaledobjects", _request_timeout=SECONDS
                )
            except NotFoundException:
                return []
            targets = [(each["metadata"]["name"], each["spec"]["scaleTargetRef"]) for each in found["items"]]
        return [
            name
            for name, target in targets
            if target.get("kind", "Deployment") == "Deployment" and target.get("name") == deployment
        ]

    async def external_metrics(self) -> str | None:
        """`namespace/service` of who serves the API of external metrics, None where nobody does."""
        with translated(self._where, f"APIService {EXTERNAL_METRICS}"):
            try:
                found = await self._registration.read_api_service(EXTERNAL_METRICS, _request_timeout=SECONDS)
            except NotFoundException:
                return None
        service = found.spec and found.spec.service
        return f"{service.namespace}/{service.name}" if service else "the Kubernetes API itself"


def _pod(found: client.V1Pod) -> Pod:
    metadata, status = found.metadata, found.status
    conditions = (status and status.conditions) or []
    return Pod(
        name=(metadata and metadata.name) or "",
        address=(status and status.pod_ip) or "",
        ready=any(each.type == "Ready" and each.status == "True" for each in conditions),
        going=bool(metadata and metadata.deletion_timestamp),
        cost=_cost(((metadata and metadata.annotations) or {}).get(COST)),
        pending=bool(status and status.phase == "Pending"),
        unplaced=any(each.type == "PodScheduled" and each.reason == "Unschedulable" for each in conditions),
    )


def _is_over(found: client.V1Pod) -> bool:
    return bool(found.status and found.status.phase in ("Succeeded", "Failed"))


def _cost(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
