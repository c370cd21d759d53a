"""All of it at once, at random: faults of the broker, the sidecars, the apps and the registry overlap, drawn from a seed, under load.
`make chaos SECONDS=600 SEED=7` is the long run; CI makes a short one. A failure prints the seed, which draws the same faults."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.pods import Sidecar
from tests.fault.durable_load import History
from tests.fault.scene import Scene, lasting, scene
from tests.servers.rabbitmq import Cluster, Node
from tests.servers.redis import RedisServer

SECONDS = float(os.environ.get("CHAOS_SECONDS") or 20)
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.timeout(SECONDS * 3 + 400)]

Fault = Callable[[], Callable[[], None]]
"""Breaks something; what it returns mends it."""


class Monkey:
    """Breaks things and mends them: of the broker one at a time, because two of three nodes are what it promises to need."""

    def __init__(self, stage: Scene, cluster: Cluster, redis: RedisServer, seed: int) -> None:
        self._stage = stage
        self._cluster = cluster
        self._redis = redis
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            broker, pod = self._draw(self._of_the_broker()), self._draw(self._of_the_pods())
            try:
                with broker, pod:
                    lasting(self._random.uniform(1, 5))
            finally:
                self._cluster.restore()
                self._stage.wait_ready()

    @contextmanager
    def _draw(self, faults: dict[str, Fault]) -> Iterator[None]:
        name = self._random.choice(sorted(faults))
        self.done[name] += 1
        mend = faults[name]()
        try:
            yield
        finally:
            mend()

    def _of_the_broker(self) -> dict[str, Fault]:
        node = self._random.choice(self._cluster.nodes)
        return {
            "nothing": lambda: _nothing,
            "node killed": lambda: _then(node.kill, node.start),
            "node stopped": lambda: _then(node.stop, node.start),
            "node frozen": lambda: _then(node.pause, node.resume),
            "node cut off": lambda: _then(node.cut, node.mend),
            "majority frozen": self._freeze_most,
            "channels closed": lambda: self._close_channels(node),
        }

    def _of_the_pods(self) -> dict[str, Fault]:
        pod = self._random.choice(self._stage.pods)
        mode = self._random.choice(("garbage", "half", "slow", "503"))
        return {
            "nothing": lambda: _nothing,
            "receiving sidecar killed": lambda: _then(pod.sidecar.kill, lambda: pod.sidecar.start()),
            "receiving sidecar told to stop": lambda: _then(pod.sidecar.terminate, lambda: _again(pod.sidecar)),
            "sending sidecar killed": lambda: _then(self._stage.shop.kill, lambda: self._stage.shop.start()),
            "app killed": lambda: _then(pod.app.kill, lambda: pod.app.start().wait_ready()),
            "app unwell": lambda: _then(lambda: pod.app.mode(mode), lambda: pod.app.mode("well")),
            "redis killed": lambda: _then(self._redis.kill, self._redis.start),
        }

    def _freeze_most(self) -> Callable[[], None]:
        for node in self._cluster.nodes[:2]:
            node.pause()

        def mend() -> None:
            for node in self._cluster.nodes[:2]:
                node.resume()

        return mend

    def _close_channels(self, node: Node) -> Callable[[], None]:
        node.ctl("eval", "[exit(P, kill) || P <- rabbit_channel:list_local()].")
        return _nothing


def _then(fault: Callable[[], object], mend: Callable[[], object]) -> Callable[[], None]:
    fault()

    def mended() -> None:
        mend()

    return mended


def _again(sidecar: Sidecar) -> None:
    sidecar.wait_exit(20)
    sidecar.start()


def _nothing() -> None:
    """There is nothing to mend."""


def test_everything_at_once_at_random(
    fault_cluster: Cluster, vhost: str, fault_redis: RedisServer, tmp_path: Path
) -> None:
    print(f"chaos: SEED={SEED} SECONDS={SECONDS:g}")
    with scene(fault_cluster.url(vhost), fault_redis.url, tmp_path / "mesh", settings={"retry": "50:1s"}) as stage:
        monkey = Monkey(stage, fault_cluster, fault_redis, SEED)
        with stage.load() as history:
            monkey.run(SECONDS)
            _some_more(history)
        report = stage.judge(history, duplicates=True, results=False)
    print(f"chaos: {sum(monkey.done.values())} faults {dict(monkey.done)}; {report}")


def _some_more(history: History) -> None:
    history.wait_for_more(100, within=120)
