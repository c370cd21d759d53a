"""What a delivery's own record says about how it came."""

from typing import Any

import pika.frame
import pytest
from pika.spec import BasicProperties

from meshq.adapters.amqp_proof import came_straight

WORK, DEAD = "meshq.ledger.v1.work", "meshq.ledger.v1.dead"


def header(headers: dict[str, Any] | None = None) -> bytes:
    """The payload of a content header frame."""
    return pika.frame.Header(1, 1, BasicProperties(message_id="m", headers=headers)).marshal()[7:-1]


def death(queue: str, exchange: str) -> dict[str, Any]:
    return {"queue": queue, "exchange": exchange, "reason": "expired", "count": 1}


@pytest.mark.parametrize(
    ("queue", "exchange", "headers"),
    [
        (WORK, "meshq.calls", None),
        (WORK, "meshq.calls", {"x-delivery-count": 3}),
        (WORK, "meshq.delay", None),
        (WORK, "", None),
        (WORK, "meshq.return", {"x-death": [death("meshq.delay.0", "meshq.delay.2"), death("meshq.delay.3", "meshq.delay")]}),
        (DEAD, "meshq.dead", {"x-death": [death(WORK, "meshq.calls")]}),
        (DEAD, "meshq.dead", {"x-death": [death(WORK, "meshq.return"), death("meshq.delay.0", "meshq.delay")]}),
        ("meshq.lost", "meshq.return", {"x-death": [death("meshq.delay.5", "meshq.delay")]}),
    ],
)  # fmt: skip
def test_the_ways_of_the_mesh_are_straight(queue: str, exchange: str, headers: dict[str, Any] | None) -> None:
    assert came_straight(queue, exchange.encode(), header(headers))


@pytest.mark.parametrize(
    ("queue", "exchange", "headers"),
    [
        (WORK, "meshq.orders.trick", None),
        (WORK, "amq.topic", None),
        (WORK, "meshq.calls", {"x-death": [death("meshq.orders.trick", "meshq.calls")]}),
        (WORK, "meshq.calls", {"x-death": [death("meshq.ledger-eu.trick", "meshq.calls")]}),
        (WORK, "meshq.return", {"x-death": [death("meshq.delay.0", "meshq.orders.trick")]}),
        (WORK, "meshq.return", {"x-death": [death("meshq.delay.0", "meshq.delay"), death("meshq.orders.trick", "")]}),
        (DEAD, "meshq.dead", {"x-death": [death("meshq.orders.v1.work", "meshq.calls")]}),
        ("meshq.lost", "meshq.return", {"x-death": [death("meshq.orders.trick", "meshq.calls")]}),
        (WORK, "meshq.calls", {"x-death": "made up"}),
        (WORK, "meshq.calls", {"x-death": [1]}),
        (WORK, "meshq.calls", {"x-death": [{"queue": 1}]}),
    ],
)  # fmt: skip
def test_a_way_around_is_none(queue: str, exchange: str, headers: dict[str, Any] | None) -> None:
    assert not came_straight(queue, exchange.encode(), header(headers))
