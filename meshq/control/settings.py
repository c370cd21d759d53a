"""The settings of `meshq control`, from the environment: every fault at once."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshq import settings_servers
from meshq.control.tokens import parse_secrets
from meshq.settings import Fault
from meshq.settings_servers import ServerSettings


@dataclass(frozen=True, slots=True)
class ControlSettings:
    server: ServerSettings
    secrets: tuple[str, ...]
    """Of the tokens with which containers register; none: nobody can."""


def read(environment: Mapping[str, str]) -> ControlSettings:
    """Raises BadSettings with every fault that shows without asking anybody."""
    faults: list[Fault] = []
    secrets: tuple[str, ...] = ()
    try:
        secrets = parse_secrets(environment.get("MESHQ_CONTROL_SECRET", ""))
    except ValueError as error:
        faults.append(Fault("MESHQ_CONTROL_SECRET", str(error)))
    return ControlSettings(settings_servers.read(environment, faults), secrets)
