"""One connection to the broker that is kept alive for ever: connect, run a session on it, wait for its end, begin again.

Hosts are tried in turn from a random one on, with jittered backoff. A session is what is done on each new connection (open
channels, assert topology, consume); it ends with the connection. A new connection object each time: pika's are not reused.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pika

from meshq.adapters.amqp_channel import ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_url import AmqpUrl, explain

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
GOODBYE_TIMEOUT = 3.0
HEARTBEAT = 10
"""Seconds. A broker that says nothing for two of these is taken for dead (a node that is cut off or stopped sends no reset).
RabbitMQ's guide calls 5 to 20 s optimal for most; below 5 s false alarms are likely."""
FIRST_BACKOFF, MOST_BACKOFF = 0.1, 5.0

Session = Callable[[FastConnection], Awaitable[None]]


class Link:
    def __init__(
        self,
        url: AmqpUrl,
        name: str,
        tls: Callable[[], ssl.SSLContext] | None,
        session: Session,
        on_change: Callable[[], None],
    ) -> None:
        self.fault = "the broker was not reached yet"
        self._url = url
        self._name = name
        self._tls = tls
        self._session = session
        self._on_change = on_change
        self.connection: FastConnection | None = None
        """The open one, if there is one."""
        self._next = random.randrange(len(url.hosts))
        self.tried = asyncio.Event()
        """Set once a connection is there, or every host was tried in vain."""
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        """There is no connection, nor an attempt at one."""
        self._idle.set()

    async def run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            host, port = self._url.hosts[self._next % len(self._url.hosts)]
            self._next += 1
            error = await self._connect_and_run(host, port)
            if self._stop.is_set():
                return
            failures = failures + 1 if self.fault else 1  # `up` clears the fault: this is the first of a new series
            self._say(explain(error, self._url, host, port))
            # Each pass over the hosts is quick, since one of them may be up; the passes get further apart.
            passes, rest = divmod(failures, len(self._url.hosts))
            if passes:
                self.tried.set()
            backoff = FIRST_BACKOFF if rest else min(FIRST_BACKOFF * 2**passes, MOST_BACKOFF)
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff * random.uniform(0.5, 1.5)):
                    await self._stop.wait()

    async def close(self, timeout: float) -> None:
        """Say goodbye to the broker, at most `timeout` seconds long. An attempt to connect that is under way ends first: no
        connection is left behind that nobody knows of."""
        self._stop.set()
        self.fault = "closed"
        if self.connection is not None and self.connection.is_open:
            self.connection.close()
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%s: the broker did not answer the goodbye in %.0f s", self._name, timeout)
            self.cut()

    def cut(self) -> None:
        """Drop the connection as if the network had."""
        if self.connection is not None and self.connection._transport is not None:
            self.connection._transport.abort()

    async def _connect_and_run(self, host: str, port: int) -> BaseException:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        closed: asyncio.Future[BaseException] = loop.create_future()

        def on_closed(error: BaseException) -> None:
            self._idle.set()
            if not closed.done():
                closed.set_result(error)

        self._idle.clear()
        connection = FastConnection(
            self._parameters(host, port), on_open=lambda: opened.set_result(None), on_closed=on_closed
        )
        await asyncio.wait((opened, closed), return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            return closed.result()
        self.connection = connection
        try:
            error = await self._run_session(connection, closed)
            await self._end(connection, closed)
            return error
        finally:
            self.connection = None

    async def _end(self, connection: FastConnection, closed: "asyncio.Future[BaseException]") -> None:
        """Close it if the session ended before it, so that there is never more than one."""
        if connection.is_open:
            connection.close()
        _, open_still = await asyncio.wait((closed,), timeout=GOODBYE_TIMEOUT)
        if open_still:
            self.cut()

    async def _run_session(self, connection: FastConnection, closed: "asyncio.Future[BaseException]") -> BaseException:
        async def session() -> None:
            await self._session(connection)

        if self._stop.is_set():
            return ConnectionError("closed")
        running = asyncio.ensure_future(session())
        try:
            await asyncio.wait((running, closed), return_when=asyncio.FIRST_COMPLETED)
            if not closed.done():
                error = running.exception() or ConnectionError("the session ended")
                if not isinstance(error, ChannelLost | TimeoutError | ConnectionError):
                    logger.error("%s: the session failed", self._name, exc_info=error)
                return error
            return closed.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def up(self) -> None:
        """The session is ready: what it is for can be done."""
        if self.fault:
            logger.info("%s: connected to the broker", self._name)
        self.fault = ""
        self.tried.set()
        self._on_change()

    def refused(self, fault: str) -> None:
        """The broker is there but lets the session not do what it is for."""
        self._say(fault)
        self.tried.set()

    def _say(self, fault: str) -> None:
        if fault != self.fault:
            logger.warning("%s: %s; trying again", self._name, fault)
        self.fault = fault
        self._on_change()

    def _parameters(self, host: str, port: int) -> pika.ConnectionParameters:
        return pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=self._url.vhost,
            credentials=pika.PlainCredentials(self._url.user, self._url.password),
            heartbeat=HEARTBEAT,
            # One attempt a connection object: `run` does the rest. pika waits for ever by default on a blocked connection;
            # here that is a state the publisher reports (and every message has its own deadline), so no timer is wanted.
            connection_attempts=1,
            socket_timeout=CONNECT_TIMEOUT,
            stack_timeout=2 * CONNECT_TIMEOUT,
            blocked_connection_timeout=None,
            client_properties={"connection_name": self._name, "product": "meshq"},
            ssl_options=None if self._tls is None else pika.SSLOptions(self._tls(), host),
        )
