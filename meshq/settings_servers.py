"""The settings that the servers of a mesh share (`meshq control`, `meshq signals`), from the environment: every fault at once."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meshq.settings import BadSettings, Fault

_MESH = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
_DOMAIN = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
_URLS = {
    "MESHQ_BROKER_URL": (("amqp", "amqps"), "amqp://user:password@host1,host2,host3/vhost"),
    "MESHQ_REGISTRY_URL": (("redis", "rediss", "redis+sentinel", "redis+cluster"), "redis://host:6379/0"),
}
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "text", "")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    broker_url: str
    registry_url: str
    mesh: str
    domain: str
    api_token: str
    """The operators'; "" for none."""
    log_level: str
    log_format: str


def read(environment: Mapping[str, str], also: list[Fault]) -> ServerSettings:
    """`also`: what else is wrong. Raises BadSettings with every fault that shows without asking anybody."""
    faults: list[Fault] = []
    given = {name: value for name, value in environment.items() if value}
    urls = {name: _url(name, given.get(name, ""), faults) for name in _URLS}
    files = (name for name in ("MESHQ_TLS_CA", "MESHQ_TLS_CERT", "MESHQ_TLS_KEY") if name in given)
    faults += [Fault(name, f"{given[name]} cannot be read") for name in files if not os.access(given[name], os.R_OK)]
    mesh, domain = given.get("MESHQ_MESH", "default"), given.get("MESHQ_DOMAIN", "mesh")
    if not _MESH.fullmatch(mesh):
        faults.append(Fault("MESHQ_MESH", f"{mesh[:60]!r} is not lower-case letters, digits and hyphens, at most 40"))
    if not _DOMAIN.fullmatch(domain):
        faults.append(
            Fault("MESHQ_DOMAIN", f"{domain[:60]!r} is not one label of lower-case letters, digits and hyphens")
        )
    faults += also
    level, form = given.get("MESHQ_LOG_LEVEL", "info"), given.get("MESHQ_LOG_FORMAT", "")
    if level not in LEVELS:
        faults.append(Fault("MESHQ_LOG_LEVEL", f"{level[:40]!r} is not one of {', '.join(LEVELS)}"))
    if form not in FORMATS:
        faults.append(Fault("MESHQ_LOG_FORMAT", f"{form[:40]!r} is not json or text"))
    if faults:
        raise BadSettings(faults)
    return ServerSettings(
        urls["MESHQ_BROKER_URL"],
        urls["MESHQ_REGISTRY_URL"],
        mesh,
        domain,
        given.get("MESHQ_API_TOKEN", ""),
        level,
        form,
    )


def tls_files(environment: Mapping[str, str]) -> tuple[Path | None, Path | None, Path | None]:
    """Of the connections to broker and registry: authority, certificate, key."""
    ca, cert, key = (environment.get(f"MESHQ_TLS_{part}") for part in ("CA", "CERT", "KEY"))
    return _file(ca), _file(cert), _file(key)


def _file(path: str | None) -> Path | None:
    return Path(path) if path else None


def _url(name: str, text: str, faults: list[Fault]) -> str:
    """Nothing of what was given is repeated: there may be a password anywhere in it."""
    schemes, example = _URLS[name]
    if not text:
        faults.append(Fault(name, f"is required, such as {example}"))
    elif text.rstrip(":/") == "embedded":
        faults.append(Fault(name, "embedded: lives inside one process, and `meshq dev` has a control API there"))
    elif text.partition("://")[0] not in schemes or not text.partition("://")[2]:
        faults.append(Fault(name, f"give a URL such as {example}"))
    return text
