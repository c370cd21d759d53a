"""A process that uses the mesh, forks, and uses it on both sides: `python -m tests.fault.sdk_fork SCENE URL WAY RUN`."""

import asyncio
import os
import sys
import warnings
from collections.abc import Callable

from meshq import Mesh, SyncMesh

# Python says so from 3.12 on, rightly: it is what this is about.
warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)


def say(text: object) -> None:
    print(text, flush=True)


def forked(work: Callable[[], None]) -> int:
    """The id of a child that does it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> None:
    say(f"child ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


def blocking(url: str, way: str) -> None:
    mesh = SyncMesh(url, link=way == "link")
    say(f"parent {mesh.call('orders', '/items/1')['id']}")

    def work() -> None:
        say(f"child {mesh.call('orders', '/items/2')['id']}")
        mesh.close()

    ended(forked(work))
    say(f"parent {mesh.call('orders', '/items/3')['id']}")
    mesh.close()


async def fork_in_a_loop(url: str, way: str) -> None:
    mesh = Mesh(url, link=way == "link")
    say(f"parent {(await mesh.call('orders', '/items/1'))['id']}")

    async def use() -> None:
        say(f"child {(await mesh.call('orders', '/items/2'))['id']}")

    ended(forked(lambda: asyncio.run(use())))
    say(f"parent {(await mesh.call('orders', '/items/3'))['id']}")


async def fork_while_called(url: str, way: str, run: str) -> None:
    """The parent waits for an answer while the child asks for another."""
    mesh = Mesh(url, link=way == "link")
    say(f"parent {(await mesh.call('orders', '/items/1'))['id']}")
    held = asyncio.ensure_future(mesh.call("orders", f"POST /held/{run}", timeout=30))
    await mesh.services()  # it is behind the other

    async def use() -> None:
        assert await mesh.call("orders", f"POST /held/{run}", timeout=30) == "released"
        say("child 2")

    child = forked(lambda: asyncio.run(use()))
    assert await held == "released"
    await asyncio.to_thread(ended, child)
    say(f"parent {(await mesh.call('orders', '/items/3'))['id']}")


if __name__ == "__main__":
    scene, url, way, run = sys.argv[1:]
    if scene == "blocking":
        blocking(url, way)
    elif scene == "async":
        asyncio.run(fork_in_a_loop(url, way))
    else:
        asyncio.run(fork_while_called(url, way, run))
