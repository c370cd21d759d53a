"""The floors of durable messages, on plain pika as a careful user writes it: its asyncio connection on uvloop.

- `publish`: persistent, mandatory and confirmed, to the default exchange; `--concurrency` is the confirm window, kept full: each
  confirm lets the next message go. With `--batch` it is how many publish so many messages at a time, and wait for all their
  confirms before the next.
- `fill`: so many messages into a queue, as fast as it goes.
- `drain`: a consumer with prefetch 500, which acknowledges each message, or every `--ack-every`-th and with it those before; with
  `--results` it publishes a message there for each, and acknowledges once that is confirmed.
"""

import argparse
import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pika
import uvloop

from tests.bench.floor import completed, open_channel
from tests.bench.measure import BODY, Tally, closed_loop

PREFETCH = 500
FILL_WINDOW = 1000
DEADLINE = 300.0
"""Seconds for a drain."""
PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/json")


class Confirmed:
    """Publishes to one queue with confirms. Whatever is not a confirm ends the process: there is no figure then."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._channel = channel
        self._queue = queue
        self._tag = 0
        self._open: dict[int, Callable[[], None]] = {}
        """By delivery tag."""
        self._oldest = 1
        """No delivery tag below this one is open."""

    async def open(self) -> "Confirmed":
        self._channel.add_on_return_callback(partial(_ended, "came back"))
        self._channel.add_on_close_callback(lambda channel, why: _ended("met a closed channel", why))
        await completed(self._channel.confirm_delivery, "callback", self._on_fate)
        return self

    def publish(self, told: Callable[[], None]) -> None:
        self._tag += 1
        self._open[self._tag] = told
        self._channel.basic_publish("", self._queue, BODY, PERSISTENT, mandatory=True)

    def _on_fate(self, frame: Any) -> None:
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            _ended("was refused", frame.method)
        tag = frame.method.delivery_tag
        if not frame.method.multiple:
            self._open.pop(tag)()
            return
        for each in range(self._oldest, tag + 1):
            if told := self._open.pop(each, None):
                told()
        self._oldest = tag + 1


def _ended(what: str, *why: Any) -> None:
    raise SystemExit(f"a message {what}: {why}")


async def publish(url: str, queue: str, concurrency: int, seconds: float, batch: int) -> None:
    out = await Confirmed(await open_channel(url), queue).open()
    loop = asyncio.get_running_loop()

    async def one() -> None:
        confirmed: asyncio.Future[None] = loop.create_future()
        out.publish(partial(confirmed.set_result, None))
        await confirmed

    async def many() -> None:
        confirmed: asyncio.Future[None] = loop.create_future()
        left = batch

        def told() -> None:
            nonlocal left
            left -= 1
            if not left:
                confirmed.set_result(None)

        for _ in range(batch):
            out.publish(told)
        await confirmed

    await closed_loop(many if batch else one, concurrency, seconds, batch or 1)


async def fill(url: str, queue: str, count: int) -> None:
    out = await Confirmed(await open_channel(url), queue).open()
    all_confirmed = asyncio.Event()
    left, unconfirmed = count, count

    def told() -> None:
        nonlocal unconfirmed
        unconfirmed -= 1
        if not unconfirmed:
            all_confirmed.set()
        more()

    def more() -> None:
        nonlocal left
        if left:
            left -= 1
            out.publish(told)

    for _ in range(FILL_WINDOW):
        more()
    async with asyncio.timeout(DEADLINE):
        await all_confirmed.wait()


async def drain(url: str, queue: str, count: int, ack_every: int, results: str) -> None:
    channel = await open_channel(url)
    channel.basic_qos(prefetch_count=PREFETCH)
    out = await Confirmed(await open_channel(url), results).open() if results else None
    tally = Tally(count)
    seen = 0

    def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        nonlocal seen
        if out is not None:
            out.publish(partial(finish, method.delivery_tag))
            return
        seen += 1
        if seen % ack_every == 0 or seen == count:
            channel.basic_ack(method.delivery_tag, multiple=ack_every > 1)
        tally.add()

    def finish(tag: int) -> None:
        channel.basic_ack(tag)
        tally.add()

    await completed(channel.basic_consume, queue=queue, on_message_callback=on_message)
    async with asyncio.timeout(DEADLINE):
        await tally.full.wait()
    await _close(channel)


async def _close(channel: Any) -> None:
    """Once all it acknowledged is written."""
    closed = asyncio.Event()
    channel.connection.add_on_close_callback(lambda *_: closed.set())
    channel.connection.close()
    async with asyncio.timeout(DEADLINE):
        await closed.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["publish", "fill", "drain"])
    parser.add_argument("url")
    parser.add_argument("queue")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--ack-every", type=int, default=1)
    parser.add_argument("--results", default="")
    arguments = parser.parse_args()
    if arguments.role == "publish":
        uvloop.run(publish(arguments.url, arguments.queue, arguments.concurrency, arguments.seconds, arguments.batch))
    elif arguments.role == "fill":
        uvloop.run(fill(arguments.url, arguments.queue, arguments.count))
    else:
        uvloop.run(drain(arguments.url, arguments.queue, arguments.count, arguments.ack_every, arguments.results))


if __name__ == "__main__":
    main()
