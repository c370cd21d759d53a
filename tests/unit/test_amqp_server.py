"""What follows from the server's word about itself."""

import pytest

from meshq.adapters.amqp_server import Server, read
from meshq.ports import Priorities


@pytest.mark.parametrize(
    ("version", "priorities"),
    [
        ("3.10.8", Priorities.IGNORED),
        ("3.13.7", Priorities.IGNORED),
        ("4.0.0", Priorities.TWO_LEVELS),
        ("4.0.5+0.gabcdef", Priorities.TWO_LEVELS),
        ("4.2.1", Priorities.TWO_LEVELS),
        ("4.3.0", Priorities.STRICT),
        ("4.3.0-rc.1", Priorities.STRICT),
        ("4.3-alpha", Priorities.STRICT),
        ("4.10.0", Priorities.STRICT),
        ("5.0", Priorities.STRICT),
        ("", Priorities.IGNORED),
        ("four", Priorities.IGNORED),
        ("4", Priorities.IGNORED),
        ("4.x", Priorities.IGNORED),
    ],
)
def test_what_priorities_mean_to_a_version(version: str, priorities: Priorities) -> None:
    assert read({"product": "RabbitMQ", "version": version}).priorities is priorities


def test_another_product_promises_nothing() -> None:
    assert Server("LavinMQ", "5.1").priorities is Priorities.IGNORED


def test_what_a_server_says_of_itself_is_read_whatever_it_is() -> None:
    assert read({"product": b"RabbitMQ", "version": "4.0.5"}) == Server("RabbitMQ", "4.0.5")
    assert read({}) == Server("", "")
    assert read({"product": 7, "version": None}) == Server("", "")
