"""The broker's URL taken apart, and failures to connect in words."""

import socket
import ssl

import pika.exceptions
import pytest
from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorAMQPHandshakeError,
    AMQPConnectorSocketConnectError,
    AMQPConnectorStackTimeout,
)

from meshq.adapters.amqp_url import AmqpUrl, explain, parse

URL = parse("amqp://orders:s3cret@rabbit-0/shop")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("amqp://h", AmqpUrl((("h", 5672),), "guest", "guest", "/", False)),
        ("amqps://h/", AmqpUrl((("h", 5671),), "guest", "guest", "/", True)),
        ("amqp://u:p@h1,h2:5673,h3/shop", AmqpUrl((("h1", 5672), ("h2", 5673), ("h3", 5672)), "u", "p", "shop", False)),
        ("amqp://u%40x:p%2F%3A%23@h/a%2Fb", AmqpUrl((("h", 5672),), "u@x", "p/:#", "a/b", False)),
        ("amqp://u:p:q@h", AmqpUrl((("h", 5672),), "u", "p:q", "/", False)),
        ("amqp://u:p@q@h", AmqpUrl((("h", 5672),), "u", "p@q", "/", False)),
        ("amqp://u@[::1]:5673,[fe80::2]", AmqpUrl((("::1", 5673), ("fe80::2", 5672)), "u", "guest", "/", False)),
        ("amqp://h/%2F", AmqpUrl((("h", 5672),), "guest", "guest", "/", False)),
    ],
)
def test_a_url(text: str, url: AmqpUrl) -> None:
    assert parse(text) == url


@pytest.mark.parametrize(
    "text",
    ["http://h", "h", "", "amqp://", "amqp://u:p@", "amqp://h1,,h2", "amqp://h:0", "amqp://h:65536", "amqp://h:x", "amqp://h:٢",
     "amqp://u:s3c/ret@h", "amqp://u:s3c#ret@h", "amqp://u:s3c?ret@h"],
)  # fmt: skip
def test_what_is_no_url_is_said_without_the_password(text: str) -> None:
    with pytest.raises(ValueError, match="broker's URL") as error:
        parse(text)
    assert "s3c" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (pika.exceptions.ProbableAuthenticationError("x"), "refuses the user 'orders'"),
        (
            AMQPConnectorAMQPHandshakeError(pika.exceptions.ProbableAuthenticationError("x")),
            "refuses the user 'orders'",
        ),
        (pika.exceptions.ProbableAccessDeniedError("x"), "into the virtual host 'shop'"),
        (pika.exceptions.IncompatibleProtocolError("x"), "does not speak AMQP 0-9-1"),
        (AMQPConnectorSocketConnectError(ConnectionRefusedError()), "nothing listens on rabbit-0:5672"),
        (
            AMQPConnectionWorkflowFailed([TimeoutError(), AMQPConnectorSocketConnectError(ConnectionRefusedError())]),
            "nothing listens",
        ),
        (AMQPConnectionWorkflowFailed([AMQPConnectorStackTimeout("x")]), "does not answer"),
        (AMQPConnectorSocketConnectError(TimeoutError()), "does not answer"),
        (socket.gaierror(-2, "x"), "'rabbit-0' is not known"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "TLS with the broker at rabbit-0:5672 failed"),
        (
            pika.exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED - bye"),
            "closed the connection: CONNECTION_FORCED",
        ),
        (pika.exceptions.StreamLostError("x"), "was lost"),
        (OSError("something else"), "rabbit-0:5672: something else"),
        (RuntimeError(), "rabbit-0:5672: RuntimeError"),
    ],
)
def test_why_it_failed_in_words(error: Exception, says: str) -> None:
    text = explain(error, URL, "rabbit-0", 5672)
    assert says in text
    assert "rabbit-0" in text
    assert "s3cret" not in text


def test_an_untrusted_certificate_says_what_to_set() -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = "self-signed certificate"
    assert "MESHQ_TLS_CA" in explain(error, URL, "rabbit-0", 5672)
