"""The settings of `meshq signals`, from the environment: every fault at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meshq import settings_servers
from meshq.settings import Fault
from meshq.settings_servers import ServerSettings
from meshq.signals.direct_targets import Target, parse_targets

_SERVICE = re.compile(r"[a-z0-9-]{1,63}/[a-z0-9-]{1,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SignalsSettings:
    server: ServerSettings
    management_url: str
    """Of the broker's management API; "" guesses it."""
    prometheus_urls: str
    """Of every node of the broker, comma-separated: their figures instead of the management API's. "" for none."""
    targets: tuple[Target, ...]
    """Deployments that the direct mode scales."""
    cert: Path | None
    """With `key`: of the TLS that the gRPC server and the API of external metrics are served with."""
    key: Path | None
    client_ca: Path | None
    """Who may ask over TLS needs a certificate of it; None: nobody needs one."""
    service: str
    """Our own Kubernetes Service, `namespace/name`, by which it is seen whether somebody else serves external metrics; "" where that
    is not to be looked at."""


def read(environment: Mapping[str, str]) -> SignalsSettings:
    """Raises BadSettings with every fault that shows without asking anybody."""
    faults: list[Fault] = []
    targets: tuple[Target, ...] = ()
    try:
        targets = parse_targets(environment.get("MESHQ_SIGNALS_DIRECT", ""))
    except ValueError as error:
        faults.append(Fault("MESHQ_SIGNALS_DIRECT", str(error)))
    cert, key, client_ca = (_file(environment, part) for part in ("CERT", "KEY", "CLIENT_CA"))
    if (cert is None) != (key is None):
        faults.append(Fault("MESHQ_SIGNALS_CERT", "a certificate and MESHQ_SIGNALS_KEY go together: give both or none"))
    if client_ca is not None and cert is None:
        faults.append(
            Fault(
                "MESHQ_SIGNALS_CLIENT_CA",
                "clients can only be asked for a certificate over TLS: give MESHQ_SIGNALS_CERT too",
            )
        )
    service = environment.get("MESHQ_SIGNALS_SERVICE", "")
    if service and _SERVICE.fullmatch(service) is None:
        faults.append(Fault("MESHQ_SIGNALS_SERVICE", f"{service[:80]!r} is not of the form namespace/name"))
    return SignalsSettings(
        settings_servers.read(environment, faults),
        environment.get("MESHQ_MANAGEMENT_URL", ""),
        environment.get("MESHQ_PROMETHEUS_URLS", ""),
        targets,
        cert,
        key,
        client_ca,
        service,
    )


def _file(environment: Mapping[str, str], part: str) -> Path | None:
    path = environment.get(f"MESHQ_SIGNALS_{part}")
    return Path(path) if path else None
