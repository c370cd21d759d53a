"""Requests of the proxy way to hosts outside the mesh, only those that MESHQ_PASSTHROUGH names (research, D.5).

The name is looked up once per request and the connection goes to the address that was checked, so a name that points
elsewhere a moment later gains nothing. Loopback and link-local addresses (cloud metadata among them) are never gone to.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable

from meshq.core.errors import Code, Problem
from meshq.core.headers import carry, carry_response
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from meshq.ports import Exchange, HttpClient
from meshq.tasks import Tasks

TIMEOUT = 60.0
MAX_CLIENTS = 64


class PassThrough:
    """`connect(ip, port)` makes a client for one address."""

    def __init__(self, connect: Callable[[str, int], HttpClient]) -> None:
        self._connect = connect
        self._clients: dict[tuple[str, int], HttpClient] = {}
        self._tasks = Tasks()

    def forward(self, exchange: Exchange, host: str, port: int, target: bytes) -> None:
        self._tasks.start(self._forward(exchange, host, port, target), f"forward to {host}")

    async def close(self) -> None:
        await self._tasks.close()
        for client in self._clients.values():
            await client.close()

    async def _forward(self, exchange: Exchange, host: str, port: int, target: bytes) -> None:
        ip = await _resolve(host, port)
        if isinstance(ip, Problem):
            exchange.respond(ip.as_response())
            return
        request = exchange.request
        headers = carry(request.headers).headers
        outgoing = HttpRequest(request.method, target, headers, request.body)

        def done(outcome: HttpResponse | Failed) -> None:
            exchange.respond(_answer(outcome, host, keep_length=request.method == b"HEAD"))

        exchange.on_hangup((await self._client(ip, port)).request(outgoing, TIMEOUT, done))

    async def _client(self, ip: str, port: int) -> HttpClient:
        client = self._clients.get((ip, port))
        if client is None:
            if len(self._clients) >= MAX_CLIENTS:
                oldest = next(iter(self._clients))
                await self._clients.pop(oldest).close()
            client = self._clients[ip, port] = self._connect(ip, port)
        return client


async def _resolve(host: str, port: int) -> str | Problem:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return Problem(Code.BAD_GATEWAY, f"{host} is not known: {error.strerror or error}")
    ip = str(found[0][4][0])
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return Problem(Code.MISDIRECTED, f"{host} is {ip}, which is of this machine only; that is never gone to")
    return ip


def _answer(outcome: HttpResponse | Failed, host: str, keep_length: bool) -> HttpResponse:
    if isinstance(outcome, HttpResponse):
        headers = carry_response(outcome.headers, keep_length or outcome.status == 304)
        return HttpResponse(outcome.status, headers, outcome.body)
    code = Code.DEADLINE if outcome.failure is Failure.TIMEOUT else Code.BAD_GATEWAY
    return Problem(code, f"{host}: {outcome.detail}").as_response()
