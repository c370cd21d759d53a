"""Ports that cannot be had say which setting moves them, and nothing listens then."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from meshq.ports import HttpHandler
from meshq.settings import Settings, load
from meshq_sidecar.admin import Admin
from meshq_sidecar.listening import Listening, PortTaken
from tests.unit.test_outbound import World

SETTINGS = load(
    {
        "MESHQ_SERVICE": "app",
        "MESHQ_SERVICE_VERSION": "1.0.0",
        "MESHQ_BROKER_URL": "embedded:",
        "MESHQ_REGISTRY_URL": "embedded:",
        "MESHQ_HOST_PORTS": "80,8080",
        "MESHQ_DNS_PORT": "53",
    }
)


class Ports:
    """Listens on everything but what `fault` has something against."""

    def __init__(self, fault: Callable[[int], OSError | None]) -> None:
        self._fault = fault
        self.open: set[tuple[str, int]] = set()

    async def listen(self, host: str, port: int, handler: HttpHandler | None = None) -> int:
        if (error := self._fault(port)) is not None:
            raise error
        self.open.add((host, port))
        return port

    async def close(self, timeout: float = 0) -> None:
        self.open.clear()


def listen(settings: Settings, fault: Callable[[int], OSError | None] = lambda port: None) -> set[int]:
    async def run() -> set[int]:
        server, admin_server, names = Ports(fault), Ports(fault), Ports(fault)
        listening = Listening(server, admin_server, names)
        try:
            await listening.open(settings, World().outbound, Admin(dict, lambda: b"", ""))
        except PortTaken:
            assert not server.open | admin_server.open | names.open
            raise
        assert {host for host, _ in server.open | names.open} <= {"127.0.0.1", "::1"}
        return {port for _, port in server.open | admin_server.open | names.open}

    return asyncio.run(run())


def test_every_port_of_the_settings() -> None:
    assert listen(SETTINGS) == {3600, 80, 8080, 53, 3601}


@pytest.mark.parametrize(
    ("port", "setting"),
    [(3600, "MESHQ_PORT"), (80, "MESHQ_HOST_PORTS"), (53, "MESHQ_DNS_PORT"), (3601, "MESHQ_ADMIN_PORT")],
)
def test_one_that_somebody_else_has(port: int, setting: str) -> None:
    def fault(asked: int) -> OSError | None:
        return OSError(98, "Address already in use") if asked == port else None

    with pytest.raises(PortTaken, match=rf":{port}: Address already in use\. .* set {setting} to another"):
        listen(SETTINGS, fault)


def test_one_that_needs_a_right() -> None:
    def fault(asked: int) -> OSError | None:
        return PermissionError(13, "Permission denied") if asked < 1024 else None

    with pytest.raises(PortTaken, match=r"ip_unprivileged_port_start to 80 or less .*MESHQ_HOST_PORTS"):
        listen(SETTINGS, fault)
    with pytest.raises(PortTaken, match=r"ip_unprivileged_port_start to 53 or less .*MESHQ_DNS_PORT"):
        listen(replace(SETTINGS, host_ports=()), fault)


def test_the_usual_port_of_names_that_another_sidecar_has() -> None:
    def fault(asked: int) -> OSError | None:
        return OSError(98, "Address already in use") if asked == 3602 else None

    unasked = replace(SETTINGS, dns_port=3602, host_ports=())
    assert listen(unasked, fault) == {3600, 3601}
    for asked in (replace(unasked, host_ports=(80,)), replace(unasked, dns_capture=True)):
        with pytest.raises(PortTaken, match="MESHQ_DNS_PORT"):
            listen(asked, fault)
