"""Where the registry of one mesh is in Redis. Keys with the same {...} are on one server of a cluster, and only those can be in one
script.

    mq:{<mesh>:<service>}:...   what is known of one service: redis_scripts/service/common.lua
    mq:{<mesh>}:...             the mesh as a whole: redis_scripts/mesh/common.lua
"""

from collections.abc import Sequence

from meshq.adapters.redis_evaluate import Run, Script, load_script


class Keys:
    def __init__(self, mesh: str) -> None:
        self._mesh = mesh
        self.mesh = [f"mq:{{{mesh}}}:{name}" for name in ("state", "log", "services")]
        self.log = self.mesh[1]
        self.services = self.mesh[2]
        self.wakes = f"mq:{{{mesh}}}:wakes"
        """In no script: redis_wakes.py."""

    def service(self, service: str) -> list[str]:
        names = ("inst", "lease", "gone", "ready", "ends", "about", "callers", "unsaid", "reports")
        return [f"mq:{{{self._mesh}:{service}}}:{name}" for name in names]

    def with_pause(self, service: str, instance: str) -> list[str]:
        """And what is kept of an operator's pause of an instance that deregistered."""
        return [*self.service(service), f"mq:{{{self._mesh}:{service}}}:pause:{instance}"]


def mesh_script(name: str) -> Script:
    return load_script("mesh/common", f"mesh/{name}")


def said(keys: Keys, service: str, until_ms: int, instances: Sequence[str]) -> Run:
    """The mesh was told of what changed until then: of these instances, "" for all of the service."""
    return Run(service_script("said"), keys.service(service), (until_ms, *instances))


def service_script(name: str) -> Script:
    return load_script("service/common", f"service/{name}")
