"""What things are called: services, versions, topics, instances, addresses, host names (INTERFACE part 1).

Each parser takes text from outside and returns a value or raises BadName, whose message says which rule was broken.
"""

import re
from typing import NamedTuple

RESERVED = frozenset(["reply", "log", "delay", "dead", "return", "lost", "calls", "events", "replies"])
"""Words that stand where a service name could in queue and exchange names, so no service may be called so."""

OPERATOR = "meshq-control"
"""What the control API and the command line call themselves on the broker, and to the apps that they call."""

MAX_EVENT = 120
MAX_INSTANCE = 63
MAX_MAJOR = 2**31 - 1

_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
_EVENT = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_MAJOR = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:@/?#\[\]\\\s]*))(?::[0-9]{0,5})?", re.ASCII)
_VERSION_LIKE = re.compile(r"v[0-9]+", re.ASCII)
# SemVer 2.0.0, the expression that semver.org suggests (section "Is there a suggested regular expression").
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?",
    re.ASCII,
)


class BadName(ValueError):
    """A name that breaks its rule; the message says which and how."""


class Version(NamedTuple):
    """A SemVer version. Ordered by `key()`, not by the tuple: build metadata does not count, a pre-release comes first."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()
    build: str = ""

    def key(self) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
        """Precedence, SemVer 2.0 section 11: numeric identifiers below alphanumeric ones, fewer fields below more."""
        fields = tuple((False, int(f), "") if f.isdecimal() else (True, 0, f) for f in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, fields)

    def __str__(self) -> str:
        pre = "-" + ".".join(self.pre) if self.pre else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}{'+' + self.build if self.build else ''}"


def parse_version(text: str) -> Version:
    match = _SEMVER.fullmatch(text) if len(text) <= 128 else None
    if match is None:
        raise BadName(f"{text[:128]!r} is not a SemVer version such as 2.3.1")
    major, minor, patch, pre, build = match.groups()
    if max(len(major), len(minor), len(patch)) > 10 or int(major) > MAX_MAJOR:
        raise BadName(f"{text!r}: a part of the version is too large")
    return Version(int(major), int(minor), int(patch), tuple(pre.split(".")) if pre else (), build or "")


def parse_major(text: str) -> int:
    if _MAJOR.fullmatch(text) is None or int(text) > MAX_MAJOR:
        raise BadName(f"{text[:40]!r} is not a major version such as 2")
    return int(text)


def check_service(text: str) -> str:
    if _SERVICE.fullmatch(text) is None:
        raise BadName(
            f"{text[:80]!r} is not a service name: up to 40 lower-case letters, digits and hyphens, first a letter, last no hyphen"
        )
    if text in RESERVED:
        raise BadName(f"{text!r} is a reserved word and cannot name a service")
    return text


def check_event(text: str) -> str:
    if len(text) > MAX_EVENT or _EVENT.fullmatch(text) is None:
        raise BadName(f"{text[:130]!r} is not an event name: dotted lower-case labels, at most {MAX_EVENT} characters")
    return text


def check_instance(text: str) -> str:
    """An instance id given from outside. Use `clean_instance` to make one of a host name."""
    if not text or text != clean_instance(text):
        raise BadName(
            f"{text[:80]!r} is not an instance id: up to {MAX_INSTANCE} of a-z, 0-9 and hyphens, and not like v1"
        )
    return text


def clean_instance(text: str) -> str:
    """Any text as an instance id: lower-cased, what is outside [a-z0-9-] a hyphen, cut to 63, never v<digits>."""
    cleaned = re.sub(r"[^a-z0-9-]", "-", text.lower(), flags=re.ASCII)[:MAX_INSTANCE]
    return f"i-{cleaned}"[:MAX_INSTANCE] if not cleaned or _VERSION_LIKE.fullmatch(cleaned) else cleaned


def instance_id(host: str, random_base32: str) -> str:
    """`<pod or host name>-<6 random base32 characters>`; the host part gives way where both are too long."""
    suffix = "-" + random_base32[:6].lower()
    return clean_instance(host)[: MAX_INSTANCE - len(suffix)] + suffix


def topic(service: str, major: int) -> str:
    """The topic of a service's major version, and of an event's."""
    return f"{service}.v{major}"


def parse_topic(text: str) -> tuple[str, int]:
    """`orders.v2` -> ("orders", 2); an event's topic likewise."""
    name, dot, major = text.rpartition(".v")
    if not dot:
        raise BadName(f"{text[:130]!r} is not a topic such as orders.v2")
    return check_event(name), parse_major(major)  # every service name is one that an event could have


class HostName(NamedTuple):
    """A mesh host name taken apart: at most one of `major` and `instance` is given."""

    service: str
    major: int | None = None
    instance: str | None = None


def bare_host(host: str) -> str | None:
    """The name or address in a Host field: lower-cased, without port, brackets and one trailing dot. None for what is not a
    name and a port: `localhost:x@evil.com` is no port of localhost."""
    match = _HOST.fullmatch(host.lower()) if host.isascii() else None
    if match is None:
        return None
    return match[1] if match[2] is None else match[2].removesuffix(".")


def parse_host(host: str, domain: str) -> HostName | None:
    """`v2.orders.mesh`, `v2.orders.localhost:3600` -> HostName; None when the host is not of the mesh.

    A port is cut off, case does not matter, one trailing dot is allowed. Raises BadName for a name under the mesh domain
    that no service can have. Under `localhost` such a name is simply not ours, so None.
    """
    name = bare_host(host)
    if name is None:
        return None
    for suffix, ours in ((f".{domain}", True), (".localhost", False)):
        if name.endswith(suffix):
            try:
                return _parse_labels(name.removesuffix(suffix), host)
            except BadName:
                if ours:
                    raise
                return None
    return None


def _parse_labels(name: str, host: str) -> HostName:
    first, dot, rest = name.partition(".")
    if not dot:
        return HostName(check_service(name))
    if "." in rest:
        raise BadName(f"{host[:100]!r} has too many labels for a mesh host name")
    service = check_service(rest)
    if _VERSION_LIKE.fullmatch(first):
        return HostName(service, major=parse_major(first[1:]))
    return HostName(service, instance=check_instance(first))
