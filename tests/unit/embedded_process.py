"""A process with an embedded broker on disk, for tests that kill it: `python -m tests.unit.embedded_process MODE FILE`.

publish   publish durably for ever, many at once, and write the number of each to the output as it is confirmed
consume   publish 0 to 5, take 0 to 3, acknowledge 0 and 2, write "ready", then wait to be killed
delay     publish with delays of 0 to 2 s for ever, many at once, and write the number of each as it is confirmed
hold      open the file, write "ready", wait
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.core import topology
from meshq.core.topology import Binding, Topology
from meshq.ports import Delivery, Published
from tests.contract.broker_rigs import Recorder, message, published, queue

NAME = "meshq.orders.v1.work"
AT_ONCE = 64


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


async def publish(broker: EmbeddedBroker, delays: Sequence[int] = ()) -> None:
    number = 0
    room = asyncio.Semaphore(AT_ONCE)

    def done(fate: Published, number: int) -> None:
        assert fate is Published.CONFIRMED
        say(str(number))
        room.release()

    while True:
        await room.acquire()
        body = b"%d " % number + bytes(number % 5000)
        publication = message(NAME, body, f"m{number}")
        if delays:
            key = topology.delay_key(delays[number % len(delays)], NAME)
            publication = publication._replace(exchange=topology.DELAY, key=key)
        broker.publish(publication, lambda fate, n=number: done(fate, n))  # type: ignore[misc]
        number += 1


async def consume(broker: EmbeddedBroker) -> None:
    await published(broker, *(message(NAME, b"%d" % n, f"m{n}", reply_to="orders.a.1") for n in range(6)))
    inbox = Recorder[Delivery]()
    subscription = broker.subscribe(NAME, 4, inbox)
    held = await inbox.count(4)
    subscription.cancel()
    held[0].ack()
    held[2].ack()
    # What is written is written in order: once this is confirmed, so is all that went before it.
    await published(broker, message(NAME, b"6", "m6", expiration_ms=3_600_000, priority=0))


async def main(mode: str, path: Path) -> None:
    hub = EmbeddedHub(path, SystemClock())
    broker = hub.connect("orders")
    await broker.open()
    if mode != "hold":
        await broker.declare(queue(NAME))
        back = Binding(topology.RETURN, NAME, f"#.{NAME}")
        await broker.declare(Topology(bindings=(back,)))
        await {"publish": publish, "consume": consume, "delay": partial(publish, delays=(0, 1, 2))}[mode](broker)
    say("ready")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
