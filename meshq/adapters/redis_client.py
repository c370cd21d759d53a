"""What the registry and the store on Redis have in common: how they connect, and their scripts.

Each has a client of its own, so that neither waits for the other's connections.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def address(url: str) -> str:
    """Host and port, without the password, for messages."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def connect(url: str, purpose: str, connect_seconds: float) -> redis.asyncio.Redis:
    """A client that connects when it is used. Calls are cut off by their callers, not by a socket timeout, which a blocking
    read would need longer; and the owner of what failed tries again, not the library. A connection that broke while idle is
    replaced before it is used. Raises ValueError for another scheme than redis:// and rediss://."""
    scheme = urlsplit(url).scheme
    if scheme not in ("redis", "rediss"):
        raise ValueError(f"{scheme}: is not a scheme of the Redis {purpose}: it takes redis:// and rediss://")
    return redis.asyncio.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=None,
        socket_connect_timeout=connect_seconds,
        retry=Retry(NoBackoff(), 0),
    )


class Script(NamedTuple):
    source: str
    sha: str


@cache
def load_script(*names: str) -> Script:
    """`redis_scripts/<name>.lua`, several one after the other."""
    folder = files(__package__) / "redis_scripts"
    source = "".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
