"""DNS records and answers as values: what core/dns.py says and meshq/adapters/dns_packets.py writes. RFC numbers say where a rule
is from."""

from enum import IntEnum
from typing import NamedTuple

TTL = 5
"""Seconds. What is answered changes when instances come and go, and every change of the picture is here within a second or two;
a resolver that keeps an answer for longer would show what has gone."""
NEGATIVE_TTL = 1
"""Seconds that the absence of a name may be remembered: a service that has just registered is about to be called."""
Name = tuple[str, ...]
"""Labels in lower case; of bytes outside ASCII each is one character (Latin-1)."""


class Kind(IntEnum):
    """Types of records."""

    A = 1
    SOA = 6
    PTR = 12
    HINFO = 13
    TXT = 16
    AAAA = 28
    SRV = 33
    ANY = 255


class Status(IntEnum):
    """Response codes (RFC 1035 section 4.1.1; 16 is RFC 6891)."""

    GOOD = 0
    FORMAT_ERROR = 1
    SERVER_FAILURE = 2
    NO_SUCH_NAME = 3
    NOT_IMPLEMENTED = 4
    REFUSED = 5
    BAD_VERSION = 16


class Target(NamedTuple):
    """What an SRV record says; priority and weight are always 0."""

    port: int
    name: Name


class Authority(NamedTuple):
    """What an SOA record says; the name in front of everything is the zone's."""

    serial: int


class Record(NamedTuple):
    name: Name
    kind: Kind
    data: str | Name | Target | Authority
    """A, AAAA: an address. PTR: a name. TXT, HINFO: strings."""
    ttl: int = TTL


class Answer(NamedTuple):
    status: Status
    records: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
