"""Where the sidecar is: MESHQ_URL, MESHQ_TOKEN, MESHQ_HEALTH_TIMEOUT."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from meshq.core.durations import parse_duration_ms

USUAL_URL = "http://127.0.0.1:3600"
USUAL_HEALTH_TIMEOUT = "60s"


@dataclass(frozen=True, slots=True)
class Reach:
    """One sidecar, from its app's side."""

    host: str = "127.0.0.1"
    port: int = 3600
    token: str = ""
    """Sent as Meshq-Token with everything."""
    health_timeout: float = 60.0
    """Seconds to wait for a sidecar that does not answer yet. A pod's containers start in no order."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def read(
    environment: Mapping[str, str],
    url: str | None = None,
    token: str | None = None,
    health_timeout: float | None = None,
) -> Reach:
    """What is given goes before the environment. Raises ValueError, which says what is wrong with which."""
    where = urlsplit(url or environment.get("MESHQ_URL") or USUAL_URL)
    try:
        port = where.port or 80
    except ValueError as error:
        raise ValueError(f"MESHQ_URL: {error}") from None
    if where.scheme != "http" or not where.hostname or where.path not in ("", "/"):
        raise ValueError(
            f"MESHQ_URL: {where.geturl()!r} is not like {USUAL_URL}: the sidecar is on this machine and speaks HTTP"
        )
    if health_timeout is None:
        try:
            health_timeout = parse_duration_ms(environment.get("MESHQ_HEALTH_TIMEOUT") or USUAL_HEALTH_TIMEOUT) / 1000
        except ValueError as error:
            raise ValueError(f"MESHQ_HEALTH_TIMEOUT: {error}") from None
    if not 0 < health_timeout < 10**9:
        raise ValueError(f"MESHQ_HEALTH_TIMEOUT: {health_timeout:g} is not a number of seconds above 0")
    return Reach(where.hostname, port, environment.get("MESHQ_TOKEN", "") if token is None else token, health_timeout)
