"""The ports of a sidecar: loopback, over IPv4 and IPv6 where there is that, for the app; every address for the admin port."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from meshq.ports import HttpHandler, HttpServer, NameServer
from meshq.settings import USUAL_DNS_PORT, Settings
from meshq_sidecar.admin import Admin
from meshq_sidecar.outbound import Outbound

logger = logging.getLogger(__name__)

Listen = Callable[[str, int], Awaitable[object]]
"""Listens on a host and a port. Raises OSError."""


class PortTaken(Exception):
    """A port of the sidecar is somebody else's, or not for us; the message says which setting moves it."""


class Listening:
    def __init__(self, server: HttpServer, admin_server: HttpServer, name_server: NameServer) -> None:
        self._server = server
        self._admin_server = admin_server
        self._name_server = name_server
        self.without_names = ""
        """Why mesh DNS does not answer; "" where it does."""

    async def open(self, settings: Settings, outbound: Outbound, admin: Admin) -> None:
        """Raises PortTaken; nothing listens then."""
        try:
            await _loopback(self._for(outbound.handle), settings.port, "MESHQ_PORT")
            for port in settings.intercept:
                await _loopback(self._for(outbound.handle_intercepted(port)), port, "MESHQ_INTERCEPT")
            for port in settings.host_ports:
                await _loopback(self._for(outbound.handle_named), port, "MESHQ_HOST_PORTS")
            await self._answer_names(settings)
            await _listen(self._for_admin(admin), "0.0.0.0", settings.admin_port, "MESHQ_ADMIN_PORT")
        except PortTaken:
            await self.close(0)
            raise

    async def _answer_names(self, settings: Settings) -> None:
        """Of several sidecars on one machine that say nothing of names, one has the usual port; the others do without."""
        try:
            await _loopback(self._name_server.listen, settings.dns_port, "MESHQ_DNS_PORT")
        except PortTaken as taken:
            if settings.dns_port != USUAL_DNS_PORT or settings.host_ports or settings.dns_capture:
                raise
            await self._name_server.close()
            self.without_names = str(taken)
            logger.warning("no mesh DNS here: %s", taken)

    async def close_to_the_app(self, timeout: float) -> None:
        """Answer what was asked, at most `timeout` seconds."""
        await self._server.close(timeout)

    async def close(self, timeout: float) -> None:
        await asyncio.gather(self._server.close(timeout), self._admin_server.close(timeout), self._name_server.close())

    def _for(self, handler: HttpHandler) -> Listen:
        return lambda host, port: self._server.listen(host, port, handler)

    def _for_admin(self, admin: Admin) -> Listen:
        return lambda host, port: self._admin_server.listen(host, port, admin.handle)


async def _loopback(listen: Listen, port: int, setting: str) -> None:
    await _listen(listen, "127.0.0.1", port, setting)
    if has_ipv6_loopback():
        await _listen(listen, "::1", port, setting)


async def _listen(listen: Listen, host: str, port: int, setting: str) -> None:
    try:
        await listen(host, port)
    except PermissionError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port}: ports below 1024 are not for every user. Set the sysctl net.ipv4.ip_unprivileged_port_start to "
            f"{port} or less (a pod may, in its securityContext), or set {setting} to a port from 1024 on"
        ) from error
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Stop what holds the port, or set {setting} to another"
        ) from error


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True
