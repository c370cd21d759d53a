"""A message-queue service mesh for loosely coupled pods.

Apps use the client SDK; each name is loaded when it is first used, so that the mesh's own programs load none of it:

    from meshq import Mesh, Service, Context, Problem
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from meshq.sdk.context import Context as Context
    from meshq.sdk.events import Published as Published
    from meshq.sdk.mesh import Mesh as Mesh
    from meshq.sdk.problem import Problem as Problem
    from meshq.sdk.reply import Reply as Reply
    from meshq.sdk.retrying import Retry as Retry
    from meshq.sdk.retrying import retrying as retrying
    from meshq.sdk.service import Service as Service
    from meshq.sdk.sync import SyncMesh as SyncMesh
    from meshq.sdk.sync import SyncTicket as SyncTicket
    from meshq.sdk.ticket import Ticket as Ticket
    from meshq.sdk.views import ServiceView as ServiceView
    from meshq.sdk.views import VersionView as VersionView

_WHERE = {
    "Context": "context",
    "Mesh": "mesh",
    "Problem": "problem",
    "Published": "events",
    "Reply": "reply",
    "Retry": "retrying",
    "Service": "service",
    "ServiceView": "views",
    "SyncMesh": "sync",
    "SyncTicket": "sync",
    "Ticket": "ticket",
    "VersionView": "views",
    "retrying": "retrying",
}

__all__ = [
    "Context",
    "Mesh",
    "Problem",
    "Published",
    "Reply",
    "Retry",
    "Service",
    "ServiceView",
    "SyncMesh",
    "SyncTicket",
    "Ticket",
    "VersionView",
    "__version__",
    "retrying",
]


def __getattr__(name: str) -> Any:
    try:
        module = import_module(f"meshq.sdk.{_WHERE[name]}")
    except KeyError:
        raise AttributeError(f"module 'meshq' has no attribute {name!r}") from None
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return __all__
