"""From the URLs of the settings to adapters. What is not chosen is not imported: a sidecar holds only what it uses."""

from meshq.adapters.tls import SYSTEM, Files, Renewed
from meshq.ports import Broker, Clock, Registry, Store


def broker(url: str, name: str, service: str, clock: Clock, tls: Files) -> Broker:
    """`name` is what the broker's operators see; the embedded broker knows its clients by `service`. Raises ValueError for a
    URL with parts that make no sense, OSError for a certificate that cannot be read."""
    if url == "embedded:":
        from meshq.adapters.embedded_broker import EmbeddedHub

        return EmbeddedHub(None, clock).connect(service)
    from meshq.adapters.amqp import AmqpBroker

    if url.startswith("amqps:"):
        return AmqpBroker(url, name=name, clock=clock, tls=Renewed(tls))
    return AmqpBroker(url, name=name, clock=clock)


def registry(url: str, mesh: str, clock: Clock, tls: Files = SYSTEM) -> Registry:
    """Raises ValueError for a URL that is not served, OSError for a certificate that cannot be read."""
    if url == "embedded:":
        from meshq.adapters.embedded_registry import EmbeddedRegistryHub

        return EmbeddedRegistryHub(clock).connect()
    from meshq.adapters.redis import RedisRegistry

    return RedisRegistry(url, mesh, tls=_renewed(url, tls))


def store(url: str, mesh: str, clock: Clock, tls: Files = SYSTEM) -> Store:
    """On the registry's server, over a connection of its own. Raises as `registry` does."""
    if url == "embedded:":
        from meshq.adapters.embedded_store import EmbeddedStoreHub

        return EmbeddedStoreHub(clock).connect()
    from meshq.adapters.redis_store import RedisStore

    return RedisStore(url, mesh, tls=_renewed(url, tls))


def _renewed(url: str, tls: Files) -> Renewed | None:
    return Renewed(tls) if url.startswith("rediss") else None
