"""Whether the API of external metrics is ours to serve: a cluster has one server of it, and KEDA brings its own."""

from typing import Protocol


class Registrations(Protocol):
    async def external_metrics(self) -> str | None:
        """`namespace/service` of who serves it, None where nobody does. May raise ClusterFault."""


async def external_metrics_owner(cluster: Registrations, own: str) -> str:
    """Why it must not be served here, "" where it may be. `own` is our service as `namespace/name`. Raises ClusterFault where that
    cannot be found out."""
    owner = await cluster.external_metrics()
    if owner is None or owner == own:
        return ""
    return (
        f"{owner} serves the external metrics of this cluster, and there can be only one that does: let KEDA ask meshq "
        "(`meshq scale manifest SERVICE --for keda`), or use the direct mode (`--for direct`)"
    )
