"""`amqp[s]://user:password@host1,host2:5673,host3/vhost` taken apart, and a failure to connect put into words."""

import socket
import ssl
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import pika.exceptions
from pika.adapters.utils import connection_workflow

from meshq.core.server_address import parse_server


@dataclass(frozen=True, slots=True)
class AmqpUrl:
    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str
    vhost: str
    tls: bool


def parse(url: str) -> AmqpUrl:
    """Raises ValueError. Missing parts are RabbitMQ's defaults: guest, guest, the port of the scheme, the vhost `/`."""
    parts = urlsplit(url)
    if parts.scheme not in ("amqp", "amqps"):
        raise ValueError("the broker's URL begins with amqp:// or amqps://")
    tls = parts.scheme == "amqps"
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    vhost = unquote(parts.path.removeprefix("/")) or "/"
    return AmqpUrl(
        tuple(_host(host, 5671 if tls else 5672) for host in hosts.split(",")),
        unquote(user) or "guest",
        unquote(password) or "guest",
        vhost,
        tls,
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    try:
        return parse_server(text, default_port)
    except ValueError:
        raise ValueError(
            "the broker's URL has a host that cannot be: give hosts such as rabbit-0 or rabbit-0:5672, and write / ? # @ : in "
            "user and password as %2F %3F %23 %40 %3A"
        ) from None


def explain(error: BaseException, url: AmqpUrl, host: str, port: int) -> str:
    """Why connecting failed, and what to do about it."""
    at = f"the broker at {host}:{port}"
    cause = _root(error)
    match cause:
        case pika.exceptions.ProbableAuthenticationError() | pika.exceptions.AuthenticationError():
            return f"{at} refuses the user {url.user!r}: check user and password in MESHQ_BROKER_URL"
        case pika.exceptions.ProbableAccessDeniedError():
            return (
                f"{at} lets {url.user!r} not into the virtual host {url.vhost!r}: create it or give the user rights there "
                f"(rabbitmqctl add_vhost, set_permissions)"
            )
        case pika.exceptions.IncompatibleProtocolError():
            return (
                f"what listens on {host}:{port} does not speak AMQP 0-9-1; is it another server, or a TLS port (amqps)?"
            )
        case pika.exceptions.ConnectionOpenAborted():
            return (
                f"what listens on {host}:{port} takes connections but does not speak AMQP 0-9-1 in time; is it another server, "
                "a TLS port (amqps), or a broker that hangs?"
            )
        case ssl.SSLCertVerificationError():
            return f"{at} has a certificate that is not trusted: {cause.verify_message}; set MESHQ_TLS_CA"
        case ssl.SSLError():
            return f"TLS with {at} failed: {getattr(cause, 'reason', None) or cause}"
        case socket.gaierror():
            return f"the broker's host {host!r} is not known: check the host in MESHQ_BROKER_URL and the DNS"
        case ConnectionRefusedError():
            return f"nothing listens on {host}:{port}: is the broker running?"
        case TimeoutError() | pika.exceptions.AMQPHeartbeatTimeout():
            return f"{at} does not answer"
        case pika.exceptions.ConnectionClosedByBroker():
            return f"{at} closed the connection: {cause.reply_text}"
        case pika.exceptions.StreamLostError():
            return f"the connection to {at} was lost"
    return f"{at}: {str(cause) or type(cause).__name__}"


def _root(error: BaseException) -> BaseException:
    """pika wraps what happened in what it was doing at the time, several times over."""
    for _ in range(10):
        inner: object = None
        if isinstance(error, connection_workflow.AMQPConnectionWorkflowFailed):
            inner = error.exceptions[-1] if error.exceptions else None
        elif isinstance(error, connection_workflow.AMQPConnectorException | pika.exceptions.AMQPConnectionError):
            inner = getattr(error, "exception", None) or next(
                (a for a in error.args if isinstance(a, BaseException)), None
            )
        if isinstance(inner, TimeoutError | connection_workflow.AMQPConnectorStackTimeout):
            return TimeoutError()
        if not isinstance(inner, BaseException):
            return error
        error = inner
    return error
