"""The sidecar's settings as one frozen value (INTERFACE part 7); the text under a field says how to choose it.

`load` reads them from the environment (`MESHQ_*`) and YAML (`MESHQ_CONFIG`), the same names in both: `MESHQ_APP_PORT` is
`appPort` in YAML; the environment wins. The rules are in settings_rules.py, on pydantic, which takes 14 MB and is needed
for a moment: `load_apart` has a child process read the settings, so that a sidecar does not carry it for its whole life.
"""

import os
import pickle
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from meshq.core import names
from meshq.core.events import EventAddress
from meshq.core.names import Version
from meshq.core.policy import Retry
from meshq.core.selectors import Address
from meshq.core.subscriptions import Subscription

EXIT_BAD_SETTINGS = 64
USUAL_DNS_PORT = 3602
"""Unless it is set."""


class Fault(NamedTuple):
    """One thing wrong with the settings."""

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class BadSettings(Exception):
    """Everything that is wrong, at once."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one sidecar is told. Durations are seconds, sizes bytes."""

    service: str
    service_version: Version
    broker_url: str
    registry_url: str
    serves: tuple[int, ...] = ()
    """Further majors; list an old one for as long as this app still understands its callers."""
    app_port: int | None = None
    app_health: str = ""
    """Choose a path that is cheap and says whether the app can work now, not whether its own dependencies can."""
    app_concurrency: int = 16
    """About what the app can work on at once (its threads or workers); more only makes messages wait in the app."""
    app_timeout: float = 60.0
    """A little over the app's slowest honest answer."""
    mesh: str = "default"
    port: int = 3600
    admin_port: int = 3601
    dns_port: int = USUAL_DNS_PORT
    """53 where the pod's resolv.conf names this sidecar: it has no way to say another port."""
    intercept: Mapping[int, Address] = field(default_factory=dict)
    host_ports: tuple[int, ...] = ()
    """The ports that the app's own URLs name: 80 for http://orders/. Not one on which the app itself listens."""
    passthrough: tuple[str, ...] = ()
    domain: str = "mesh"
    dns_capture: bool = False
    """On for an app whose URLs have the cluster's own names of services, and all of these speak HTTP at `host_ports`."""
    subscribe: tuple[Subscription, ...] = ()
    """Events that this app always wants. What it wants only at times it asks for itself, at /v1/subscriptions."""
    ordered: bool = False
    max_body: int = 4 * 2**20
    """At most 15 MiB: RabbitMQ 4 takes messages of 16 MiB, headers included."""
    retry: Retry = Retry()  # noqa: RUF009 - a NamedTuple: immutable
    instance: str = ""
    wait_for: tuple[Address, ...] = ()
    """What the app cannot begin without. Two that wait for each other wait for ever."""
    log_events: tuple[EventAddress, ...] = ()
    """What somebody replays; each keeps up to 1 GiB of the last 7 days on every node of the broker."""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    ack: str = "confirm"
    spool_dir: Path | None = None
    spool_limit: int = 256 * 2**20
    drain_timeout: float = 25.0
    """Below the pod's terminationGracePeriodSeconds by a few seconds."""
    api_token: str = ""
    log_level: str = "info"
    log_format: str = ""

    @property
    def majors(self) -> tuple[int, ...]:
        """The majors whose topics this instance consumes; () for an app that only calls out."""
        return () if self.app_port is None else self.majors_of_link

    @property
    def majors_of_link(self) -> tuple[int, ...]:
        """Those of an app that needs no port, once it has opened a link that takes messages."""
        return tuple(sorted({self.service_version.major, *self.serves}))


def load(environment: Mapping[str, str]) -> Settings:
    """Raises BadSettings with every fault."""
    from meshq.settings_rules import read

    return read(environment)


def load_apart(environment: Mapping[str, str]) -> Callable[[], Settings]:
    """Begin `load` in a child process; the function returned waits for it, and returns or raises as `load` does. Only for a
    process that has no threads and no event loop yet."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:  # whatever happens: the child must not come back from here as a second parent
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(_loaded(environment), pipe)
        finally:
            os._exit(0)
    os.close(writer)

    def wait() -> Settings:
        try:
            with os.fdopen(reader, "rb") as pipe:
                answer: Settings | list[Fault] | BaseException = pickle.load(pipe)
        finally:
            os.waitpid(child, 0)
        if isinstance(answer, list):
            raise BadSettings(answer)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return wait


def _loaded(environment: Mapping[str, str]) -> Settings | list[Fault] | BaseException:
    try:
        return load(environment)
    except BadSettings as bad:
        return bad.faults
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is to raise it
        return error


def with_instance(settings: Settings) -> Settings:
    """The same with an instance id: the one set, or host name and six random characters."""
    if settings.instance:
        return settings
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    random = "".join(secrets.choice(alphabet) for _ in range(6))
    return replace(settings, instance=names.instance_id(socket.gethostname(), random))
