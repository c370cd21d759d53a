"""The floor: request and reply on plain pika, its asyncio connection on uvloop, a quorum queue for the requests, direct
reply-to for the replies, deliveries acknowledged one by one. What a careful user of pika writes, and no more."""

import argparse
import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pika
import uvloop
from pika.adapters.asyncio_connection import AsyncioConnection

from tests.bench.measure import BODY, closed_loop

QUEUE = "bench.floor"
REPLIES = "amq.rabbitmq.reply-to"
PREFETCH = 100


async def open_channel(url: str) -> Any:
    """A channel of pika's on a connection of its own."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Any] = loop.create_future()
    AsyncioConnection(pika.URLParameters(url), on_open_callback=opened.set_result, custom_ioloop=loop)
    return await completed((await opened).channel, "on_open_callback")


async def completed(operation: Callable[..., Any], name: str = "callback", *args: Any, **kwargs: Any) -> Any:
    """What pika calls back with."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    operation(*args, **kwargs, **{name: done.set_result})
    return await done


async def serve(url: str) -> None:
    channel = await open_channel(url)
    await completed(channel.queue_declare, queue=QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_qos(prefetch_count=PREFETCH)

    def on_request(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        answer = pika.BasicProperties(content_type="application/json", correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body, answer)
        channel.basic_ack(method.delivery_tag)

    await completed(channel.basic_consume, queue=QUEUE, on_message_callback=on_request)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def call(url: str, concurrency: int, seconds: float) -> None:
    channel = await open_channel(url)
    loop = asyncio.get_running_loop()
    pending: dict[str, asyncio.Future[None]] = {}
    ids = itertools.count()

    def on_reply(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        pending.pop(properties.correlation_id).set_result(None)

    await completed(channel.basic_consume, queue=REPLIES, on_message_callback=on_reply, auto_ack=True)

    async def one() -> None:
        ident = str(next(ids))
        answered = pending[ident] = loop.create_future()
        properties = pika.BasicProperties(
            delivery_mode=2, content_type="application/json", correlation_id=ident, reply_to=REPLIES
        )
        channel.basic_publish("", QUEUE, BODY, properties)
        await answered

    await closed_loop(one, concurrency, seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "call"])
    parser.add_argument("url")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    if arguments.role == "serve":
        uvloop.run(serve(arguments.url))
    else:
        uvloop.run(call(arguments.url, arguments.concurrency, arguments.seconds))


if __name__ == "__main__":
    main()
