"""What RabbitMQ 3.10 and 4 say when a right is missing, and what becomes of it."""

import pytest

from meshq.adapters.amqp_channel import ChannelLost
from meshq.adapters.amqp_topology import fault, refused, refused_publish

OLD = "ACCESS_REFUSED - access to queue 'meshq.orders.v1.call' in vhost 'shop' refused for user 'ada'"
NEW = "ACCESS_REFUSED - configure access to queue 'meshq.orders.v1.call' in vhost 'shop' refused for user 'ada'"
TOPIC = (
    "ACCESS_REFUSED - access to topic 'orders.v1.call' in exchange 'meshq.calls' in vhost 'shop' refused for user 'ada'"
)
CALLS = "ACCESS_REFUSED - write access to exchange 'meshq.calls' in vhost 'shop' refused for user 'ada'"
REPLIES = "ACCESS_REFUSED - access to topic 'a.b.c' in exchange 'meshq.replies' in vhost 'shop' refused for user 'ada'"


@pytest.mark.parametrize("text", [OLD, NEW])
def test_a_refusal_names_the_user_the_right_and_the_thing(text: str) -> None:
    said = fault("queue meshq.orders.v1.call", ChannelLost(403, text), "ada", {"meshq.orders.v1.call": "configure"})
    assert "'ada' lacks the configure right on queue 'meshq.orders.v1.call'" in said
    assert text in said


def test_a_refusal_of_something_else_still_says_what_the_broker_said() -> None:
    said = refused(OLD, "ada", {"meshq.billing.v1.call": "configure"})
    assert "'ada' lacks a right" in said
    assert OLD in said


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (TOPIC, ("meshq.calls", "orders.v1.call")),
        (CALLS, ("meshq.calls", "")),
        (REPLIES, ("meshq.replies", "a.b.c")),
        (OLD, None),
    ],
)
def test_what_may_not_be_published(text: str, place: tuple[str, str] | None) -> None:
    assert refused_publish(text) == place
