"""The ports of a sidecar: loopback, over IPv4 and IPv6 where there is that, for the app; every address for the admin port."""

import asyncio
import socket

from meshq.ports import HttpHandler, HttpServer
from meshq.settings import Settings
from meshq_sidecar.admin import Admin
from meshq_sidecar.outbound import Outbound


class PortTaken(Exception):
    """A port of the sidecar is somebody else's; the message says which setting moves it."""


class Listening:
    def __init__(self, server: HttpServer, admin_server: HttpServer) -> None:
        self._server = server
        self._admin_server = admin_server

    async def open(self, settings: Settings, outbound: Outbound, admin: Admin) -> None:
        """Raises PortTaken; nothing listens then."""
        try:
            await self._loopback(settings.port, outbound.handle, "MESHQ_PORT")
            for port in settings.intercept:
                await self._loopback(port, outbound.handle_intercepted(port), "MESHQ_INTERCEPT")
            await _listen(self._admin_server, "0.0.0.0", settings.admin_port, admin.handle, "MESHQ_ADMIN_PORT")
        except PortTaken:
            await self.close(0)
            raise

    async def close_to_the_app(self, timeout: float) -> None:
        """Answer what was asked, at most `timeout` seconds."""
        await self._server.close(timeout)

    async def close(self, timeout: float) -> None:
        await asyncio.gather(self._server.close(timeout), self._admin_server.close(timeout))

    async def _loopback(self, port: int, handler: HttpHandler, setting: str) -> None:
        await _listen(self._server, "127.0.0.1", port, handler, setting)
        if _has_ipv6_loopback():
            await _listen(self._server, "::1", port, handler, setting)


async def _listen(server: HttpServer, host: str, port: int, handler: HttpHandler, setting: str) -> None:
    try:
        await server.listen(host, port, handler)
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Stop what holds the port, or set {setting} to another"
        ) from error


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True
