"""The picture of the mesh as bytes: what a sidecar keeps on its disk for a start without the registry.

    meshq-picture 1\\n   the format's own version; another one is not read
    32 bytes            SHA-256 of what follows
    msgpack             {"saved", "revision", "epoch", "services": [[name, [[major, version]...], [instance...]]...],
                        "policies": {service: as INTERFACE part 6}}

An instance is a row in the order of `_row`. Such a file is a cache: what reads it takes all of it or nothing.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgpack

from meshq.core.instances import Instance, Load, Orders, Pause, Service, Snapshot, State
from meshq.core.names import BadName, parse_version
from meshq.core.policy_parsing import parse_policy, policy_as_json

_MAGIC = b"meshq-picture 1\n"
_DIGEST = 32


class Kept(NamedTuple):
    picture: Snapshot
    saved_ms: int
    """Mesh time, Unix milliseconds."""


def encode_picture(picture: Snapshot, saved_ms: int) -> bytes:
    content = {
        "saved": saved_ms,
        "revision": picture.revision,
        "epoch": picture.epoch,
        "services": [
            [service.name, [[m, str(v)] for m, v in service.majors.items()], [_row(i) for i in service.instances]]
            for service in picture.services.values()
        ],
        "policies": {name: policy_as_json(policy) for name, policy in picture.policies.items()},
    }
    packed: bytes = msgpack.packb(content)
    return _MAGIC + hashlib.sha256(packed).digest() + packed


def decode_picture(data: bytes) -> Kept:
    """The picture is marked stale. Raises ValueError for what `encode_picture` of this version did not make."""
    head = len(_MAGIC) + _DIGEST
    if not data.startswith(_MAGIC):
        raise ValueError("it is not a picture of this version")
    packed = data[head:]
    if hashlib.sha256(packed).digest() != data[len(_MAGIC) : head]:
        raise ValueError("it is damaged: its checksum is another")
    try:
        content = msgpack.unpackb(packed)
        services = {name: _service(name, majors, rows) for name, majors, rows in content["services"]}
        policies = {name: parse_policy(name, policy) for name, policy in content["policies"].items()}
        picture = Snapshot(
            int(content["revision"]),
            MappingProxyType(services),
            stale=True,
            policies=MappingProxyType(policies),
            epoch=str(content["epoch"]),
        )
        return Kept(picture, int(content["saved"]))
    except (msgpack.UnpackException, LookupError, TypeError, AttributeError, RecursionError, BadName) as error:
        raise ValueError(f"it cannot be read: {error!r}") from error


def _service(name: str, majors: list[Any], rows: list[Any]) -> Service:
    known = {int(major): parse_version(version) for major, version in majors}
    return Service(name, MappingProxyType(known), tuple(_instance(name, row) for row in rows))


def _row(i: Instance) -> list[Any]:
    return [
        i.id,
        str(i.version),
        i.majors,
        i.state.value,
        i.address,
        dict(i.metadata),
        i.load,
        i.last_seen_ms,
        i.generation,
        dict(i.endpoints),
        i.ttl_ms,
        i.pause,
        [i.orders.pause, i.orders.drain],
    ]


def _instance(service: str, row: list[Any]) -> Instance:
    ident, version, majors, state, address, metadata, load, seen, generation, endpoints, ttl, pause, orders = row
    return Instance(
        service,
        ident,
        parse_version(version),
        tuple(majors),
        State(state),
        address,
        _texts(metadata),
        Load(*load),
        seen,
        generation,
        _texts(endpoints),
        ttl,
        _pause(pause),
        Orders(_pause(orders[0]), orders[1]),
    )


def _pause(row: list[Any] | None) -> Pause | None:
    return None if row is None else Pause(*row)


def _texts(found: dict[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(found))
