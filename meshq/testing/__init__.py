"""A whole mesh in memory inside one test, with a clock that the test turns. `pip install 'meshq[testing]'`.

    from meshq.testing import TestMesh

    async with TestMesh() as mesh:
        await mesh.serve(orders)
        receipt = await mesh.client("shop").call("orders", "POST /create", Order(item="tea"), returns=Receipt)

Each name is loaded when it is first used, so that pytest, which loads the plugin in here, loads nothing of the mesh by that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshq.testing.loop_time import StandsStill as StandsStill
    from meshq.testing.mesh import TestMesh as TestMesh
    from meshq.testing.messages import Dead as Dead
    from meshq.testing.messages import Message as Message
    from meshq.testing.running import run as run
    from meshq.testing.sync import SyncTestMesh as SyncTestMesh

_WHERE = {
    "Dead": "messages",
    "Message": "messages",
    "StandsStill": "loop_time",
    "SyncTestMesh": "sync",
    "TestMesh": "mesh",
    "run": "running",
}

__all__ = ["Dead", "Message", "StandsStill", "SyncTestMesh", "TestMesh", "run"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'meshq.testing' has no attribute {name!r}")
    try:
        module = import_module(f"meshq.testing.{_WHERE[name]}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "meshq":
            raise
        raise ImportError(
            f"meshq.testing runs the real sidecar, which needs {error.name!r}: pip install 'meshq[testing]'"
        ) from error
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return __all__
