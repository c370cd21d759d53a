"""The rules of the settings: how each is written, and what may be in it. On pydantic; see settings.py for why apart."""

import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.alias_generators import to_camel

from meshq.core import names
from meshq.core.durations import parse_duration_ms, parse_size
from meshq.core.events import EventAddress, parse_event
from meshq.core.names import BadName, Version
from meshq.core.policy import Retry
from meshq.core.policy_fields import parse_retry
from meshq.core.selectors import Address, parse_address
from meshq.core.subscription_parsing import parse_list
from meshq.core.subscriptions import Subscription
from meshq.settings import BadSettings, Fault, Settings

MAX_APP_TIMEOUT = 20 * 60.0
"""The broker takes a message back from a consumer after 30 min (RabbitMQ's consumer timeout); this leaves room to settle it."""

BROKER_SCHEMES = ("amqp", "amqps", "embedded")
REGISTRY_SCHEMES = (
    *("redis", "redis+sentinel", "redis+cluster"),
    *("rediss", "rediss+sentinel", "rediss+cluster"),
    "embedded",
)


def _named(error: BadName) -> ValueError:
    return ValueError(str(error))


def _service(text: str) -> str:
    try:
        return names.check_service(text)
    except BadName as error:
        raise _named(error) from error


def _version(value: Any) -> Version:
    if isinstance(value, Version):
        return value
    try:
        return names.parse_version(str(value))
    except BadName as error:
        raise _named(error) from error


def _seconds(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return parse_duration_ms(str(value)) / 1000


def _bytes(value: Any) -> int:
    return value if isinstance(value, int) else parse_size(str(value))


def _items(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _majors(value: Any) -> Any:
    items = (value,) if isinstance(value, int) else _items(value)
    if not isinstance(items, list | tuple):
        raise ValueError("give majors such as 1,2")  # noqa: TRY004 - pydantic reports only ValueError
    try:
        return tuple(sorted({names.parse_major(str(item)) for item in items}))
    except BadName as error:
        raise _named(error) from error


def _intercepts(value: Any) -> Any:
    """`8081=billing@1,8082=orders` or {8081: billing@1} -> {port: Address}"""
    if isinstance(value, str):
        pairs = [item.partition("=")[::2] for item in _items(value)]
    elif isinstance(value, Mapping):
        pairs = [(str(port), str(address)) for port, address in value.items()]
    else:
        raise ValueError("give ports and addresses such as 8081=billing@1")  # noqa: TRY004
    found: dict[int, Address] = {}
    for port, address in pairs:
        if not re.fullmatch(r"[1-9][0-9]{0,4}", port.strip(), re.ASCII) or int(port) > 65535:
            raise ValueError(f"{port!r} is not a port")
        if int(port) in found:
            raise ValueError(f"port {port} is named twice")
        try:
            found[int(port)] = parse_address(address.strip())
        except BadName as error:
            raise _named(error) from error
    return found


def _addresses(value: Any) -> Any:
    """`orders@^2,billing` or a list of those. A service begins with a letter, so `orders@>=2,<3` is one address."""
    items = _items(re.sub(r",\s*(?=[^a-z\s,])", "\0", value) if isinstance(value, str) else value)
    if not isinstance(items, list | tuple):
        raise ValueError("give services such as orders@^2,billing")  # noqa: TRY004 - pydantic reports only ValueError
    found: dict[Address, None] = {}
    faults: list[str] = []
    for item in items:
        try:
            found[item if isinstance(item, Address) else parse_address(str(item).strip().replace("\0", ","))] = None
        except BadName as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found)


def _events(value: Any) -> Any:
    items = _items(value)
    if not isinstance(items, list | tuple):
        raise ValueError("give events such as payments.settled,orders.placed@2")  # noqa: TRY004 - pydantic reports only ValueError
    found: dict[EventAddress, None] = {}
    faults: list[str] = []
    for item in items:
        try:
            found[parse_event(str(item))] = None
        except BadName as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found)


def _one_of(schemes: tuple[str, ...], example: str) -> AfterValidator:
    def check(url: str) -> str:
        if url.rstrip("/") == "embedded:" or url == "embedded":
            return "embedded:"
        # Nothing of what was given is repeated: there may be a password anywhere in it.
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError(f"not a URL; give one such as {example}, or embedded:") from None
        if parts.scheme not in schemes or not parts.netloc:
            raise ValueError(f"give a URL such as {example}, or embedded:")
        return url

    return AfterValidator(check)


Seconds = Annotated[float, BeforeValidator(_seconds), Field(allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Items = Annotated[tuple[str, ...], BeforeValidator(_items)]


_RULES: dict[str, Any] = {
    "service": Annotated[str, AfterValidator(_service)],
    "service_version": Annotated[Version, BeforeValidator(_version)],
    "broker_url": Annotated[str, _one_of(BROKER_SCHEMES, "amqp://user:password@host1,host2,host3/vhost")],
    "registry_url": Annotated[str, _one_of(REGISTRY_SCHEMES, "redis://host:6379/0")],
    "serves": Annotated[tuple[int, ...], BeforeValidator(_majors)],
    "app_port": Annotated[int, Field(ge=1, le=65535)] | None,
    "app_health": Annotated[str, Field(pattern=r"^(/[^\s]*)?$")],
    "app_concurrency": Annotated[int, Field(ge=1, le=10_000)],
    "app_timeout": Annotated[Seconds, Field(gt=0, le=MAX_APP_TIMEOUT)],
    "mesh": Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")],
    "port": Port,
    "admin_port": Port,
    "dns_port": Port,
    "intercept": Annotated[dict[int, Address], BeforeValidator(_intercepts)],
    "host_ports": Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], BeforeValidator(_items)],
    "passthrough": Items,
    "domain": Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")],
    "subscribe": Annotated[tuple[Subscription, ...], BeforeValidator(parse_list)],
    "max_body": Annotated[Bytes, Field(le=15 * 2**20)],
    "retry": Annotated[Retry, BeforeValidator(parse_retry)],
    "instance": Annotated[str, AfterValidator(lambda text: names.clean_instance(text) if text else "")],
    "wait_for": Annotated[tuple[Address, ...], BeforeValidator(_addresses)],
    "log_events": Annotated[tuple[EventAddress, ...], BeforeValidator(_events)],
    "ack": Literal["confirm", "spool"],
    "spool_limit": Bytes,
    "drain_timeout": Annotated[Seconds, Field(gt=0)],
    "log_level": Literal["debug", "info", "warning", "error"],
    "log_format": Literal["json", "text", ""],
}
"""Of the other fields of Settings their type is the rule."""

_FIELDS = {f.name: f for f in fields(Settings)}


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is MISSING else field.default


_definitions: dict[str, Any] = {name: (_RULES.get(name, f.type), _default(f)) for name, f in _FIELDS.items()}
_config = ConfigDict(extra="forbid", alias_generator=to_camel, arbitrary_types_allowed=True)
_Model = create_model("_Model", __config__=_config, **_definitions)


_ENVIRONMENT = {"MESHQ_" + name.upper(): name for name in _FIELDS}
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP|SCTP)")
_LINK_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
"""What Kubernetes puts into every pod for a Service whose name begins with meshq. One that is called `meshq` gives a
MESHQ_PORT: no setting of ours, but an address."""
_NOT_SETTINGS = {
    "MESHQ_CONFIG",
    "MESHQ_URL",
    "MESHQ_TOKEN",
    "MESHQ_HEALTH_TIMEOUT",
    "MESHQ_CONTROL_URL",
    "MESHQ_MANAGEMENT_URL",
}


def read(environment: Mapping[str, str]) -> Settings:
    """Settings from `environment` and the YAML file that its MESHQ_CONFIG names. Raises BadSettings with every fault."""
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    config = environment.get("MESHQ_CONFIG")
    if config:
        values = _read_yaml(Path(config), faults)
    for variable, text in environment.items():
        name = _ENVIRONMENT.get(variable)
        if name is not None:
            # Set and empty is how a manifest says "not set".
            if text != "" and not (name.endswith("port") and _LINK_ADDRESS.match(text)):
                values[to_camel(name)] = text
        elif variable.startswith("MESHQ_") and variable not in _NOT_SETTINGS and not _SERVICE_LINK.search(variable):
            faults += _mistyped(variable)
    try:
        model = _Model.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        faults += [_as_fault(e, bool(config)) for e in errors]
        bad = {e["loc"][0] for e in errors if e["loc"]}
        model = _Model.model_validate(_STAND_IN | {name: v for name, v in values.items() if name not in bad})
    settings = Settings(**{name: getattr(model, name) for name in _FIELDS})
    faults += _together(settings)
    if faults:
        raise BadSettings(faults)
    return settings


_STAND_IN = {"service": "x", "serviceVersion": "0.0.0", "brokerUrl": "embedded:", "registryUrl": "embedded:"}
"""For required settings that are missing or wrong, so that what is wrong between the others is found all the same."""


def _together(settings: Settings) -> list[Fault]:
    """What is wrong between settings that are each well."""
    faults = []
    if settings.tls_key is not None and settings.tls_cert is None:
        faults.append(Fault("MESHQ_TLS_KEY", "needs MESHQ_TLS_CERT: a client certificate is both"))
    for name in ("tls_ca", "tls_cert", "tls_key"):
        file = getattr(settings, name)
        if file is not None and not os.access(file, os.R_OK):
            faults.append(Fault(f"MESHQ_{name.upper()}", f"{file} cannot be read"))
    faults += [
        Fault("MESHQ_WAIT_FOR", f"{address} is this service itself: it would wait for ever")
        for address in settings.wait_for
        if address.service == settings.service
        and (address.selector is None or address.selector.admits(settings.service_version))
    ]
    ports = (settings.port, settings.admin_port, settings.dns_port, *settings.intercept, *settings.host_ports)
    taken = [port for port in ports if port]
    faults += [
        Fault(
            "MESHQ_PORT",
            f"port {port} is used twice among MESHQ_PORT, MESHQ_ADMIN_PORT, MESHQ_DNS_PORT, MESHQ_INTERCEPT and MESHQ_HOST_PORTS",
        )
        for port in sorted({port for port in taken if taken.count(port) > 1})
    ]
    if settings.app_port is not None and settings.app_port in taken:
        faults.append(Fault("MESHQ_APP_PORT", f"port {settings.app_port} is also a port of the sidecar"))
    return faults


def _read_yaml(path: Path, faults: list[Fault]) -> dict[str, Any]:
    from ruamel.yaml import YAML  # only those who have a file pay for the parser
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text())
    except OSError as error:
        faults.append(Fault("MESHQ_CONFIG", f"{path} cannot be read: {error.strerror}"))
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that is none
        mark = getattr(error, "problem_mark", None)  # the error's own text quotes the file, where a password may stand
        where = f", line {mark.line + 1}: {getattr(error, 'problem', None)}" if mark is not None else ""
        faults.append(Fault("MESHQ_CONFIG", f"{path} is not YAML{where}"))
    else:
        if isinstance(values, dict):
            return {str(key): value for key, value in values.items()}
        if values is not None:
            faults.append(Fault("MESHQ_CONFIG", f"{path} has no map of settings at its top"))
    return {}


def _as_fault(error: Any, from_file: bool) -> Fault:
    location = [str(part) for part in error["loc"]]
    message = str(error["msg"]).removeprefix("Value error, ")
    if not location:
        return Fault("settings", message)
    names_by_alias = {to_camel(name): name for name in _FIELDS}
    name = names_by_alias.get(location[0])
    if error["type"] == "extra_forbidden":
        return Fault(location[0], "no such setting")
    if name is None:
        return Fault(".".join(location), message)
    variable = "MESHQ_" + name.upper()
    shown = f"{variable} ({location[0]} in the file)" if from_file else variable
    if error["type"] == "missing":
        return Fault(shown, "is required")
    given = error.get("input")
    said = (
        ""
        if name in {"api_token", "broker_url", "registry_url"} or repr(given) in message
        else f" (given: {str(given)[:80]!r})"
    )
    return Fault(shown, message + said)


def _mistyped(variable: str) -> list[Fault]:
    """A fault where the variable looks like a setting; anything else under the prefix may be somebody else's."""
    from difflib import get_close_matches  # only those who mistyped pay for it

    close = get_close_matches(variable, _ENVIRONMENT, n=1, cutoff=0.8)
    return [Fault(variable, f"no such setting; did you mean {close[0]}?")] if close else []
