"""A Redis server for the tests, on broker-config/redis.conf but without persistence: a killed one comes back empty."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import redis

from tests.servers.processes import LOOPBACK, ServerProcess, free_port, wait_for

BROKER_CONFIG = Path(__file__).parents[2] / "broker-config"

START_TIMEOUT = 60
"""Seconds; it takes a fraction of one, in a container about two."""


class RedisDatabases:
    """A Redis that gives each test a numbered database of its own. It must hold nothing but tests' data."""

    def __init__(self, url: str) -> None:
        """`url` without a database: `redis://127.0.0.1:6379`."""
        self.url = url.rstrip("/")
        self._taken = count()

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 6379

    def new_database(self) -> str:
        """The URL of an empty database: `redis://127.0.0.1:21001/3`. Those of 16 tests ago or more may be given again."""
        with redis.Redis.from_url(self.url) as client:
            databases = int(client.config_get("databases")["databases"])
        url = f"{self.url}/{next(self._taken) % databases}"
        self.empty(url)
        return url

    def empty(self, url: str) -> None:
        with redis.Redis.from_url(url) as client:
            client.flushdb()

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Process(Protocol):
    """What runs the server: a process, or a container."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def tail(self) -> str: ...


class RedisServer(RedisDatabases):
    """A Redis of our own, so tests may break it."""

    def __init__(self, port: int, process: Process) -> None:
        super().__init__(f"redis://{LOOPBACK}:{port}")
        self._process = process

    def start(self) -> None:
        """Returns when it answers. Does nothing while it runs."""
        self._process.start()
        try:
            wait_for(self.answers, START_TIMEOUT, "Redis", poll=0.02)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the end of its log:\n{self._process.tail()}") from None

    def kill(self) -> None:
        """SIGKILL, gone when this returns, and all it held with it."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM, gone when this returns."""
        self._process.stop()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        self._process.pause()

    def resume(self) -> None:
        self._process.resume()


def installed() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def local_redis(program: str) -> Iterator[RedisServer]:
    """A running server, gone after the body."""
    folder = Path(tempfile.mkdtemp(prefix="meshq-redis-"))
    port = free_port()
    settings = {"bind": LOOPBACK, "port": str(port), "dir": str(folder), "databases": "256", "appendonly": "no"}
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    process = ServerProcess([program, str(BROKER_CONFIG / "redis.conf"), *options], folder / "output")
    server = RedisServer(port, process)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
