"""A pika channel whose operations can be awaited: each ends with its answer, with the channel's end, or in time."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pika.exceptions
from pika.channel import Channel as PikaChannel

from meshq.adapters.amqp_connection import FastConnection, forget_consumers

T = TypeVar("T")

OPERATION_TIMEOUT = 15.0
"""Seconds. Declaring a quorum queue waits for a majority of its members to start; an election may be part of it."""


class ChannelLost(Exception):
    """The channel is closed: by the broker with an AMQP code (404, 403, 405, 406), or with its connection (code 0)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}" if code else text)
        self.code = code
        self.text = text


class Channel:
    def __init__(self, inner: PikaChannel) -> None:
        self.inner = inner
        self.number: int = inner.channel_number
        self.lost: asyncio.Future[ChannelLost] = asyncio.get_running_loop().create_future()
        inner.add_on_close_callback(self._on_close)

    @classmethod
    async def open(cls, connection: FastConnection) -> "Channel":
        """Raises ChannelLost, TimeoutError."""
        opened: asyncio.Future[PikaChannel] = asyncio.get_running_loop().create_future()
        try:
            inner = connection.channel(on_open_callback=lambda c: None if opened.done() else opened.set_result(c))
        except pika.exceptions.AMQPError as error:
            raise ChannelLost(0, str(error) or "the connection is closed") from error
        channel = cls(inner)
        await channel._wait(opened)
        return channel

    async def call(self, operation: Callable[..., Any], **arguments: Any) -> Any:
        """Run one of the inner channel's operations and return the broker's answer. Raises ChannelLost, TimeoutError."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_answer(frame: Any) -> None:
            if not answered.done():
                answered.set_result(frame)

        try:
            operation(callback=on_answer, **arguments)
        except pika.exceptions.AMQPError as error:
            raise ChannelLost(0, str(error) or "the channel is closed") from error
        return await self._wait(answered)

    async def figures(self, queue: str) -> tuple[int, int]:
        """(messages ready, consumers). Raises ChannelLost with code 404 where there is no such queue."""
        answer = await self.call(self.inner.queue_declare, queue=queue, passive=True)
        return answer.method.message_count, answer.method.consumer_count

    def close(self) -> None:
        if self.inner.is_open:
            forget_consumers(self.inner)
            self.inner.close()

    async def _wait(self, answered: "asyncio.Future[T]") -> T:
        async with asyncio.timeout(OPERATION_TIMEOUT):
            await asyncio.wait((answered, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return answered.result()
        raise self.lost.result()

    def _on_close(self, _: PikaChannel, error: Any) -> None:
        if not self.lost.done():
            closed = isinstance(error, pika.exceptions.ChannelClosedByBroker)
            self.lost.set_result(
                ChannelLost(error.reply_code, error.reply_text) if closed else ChannelLost(0, str(error))
            )
