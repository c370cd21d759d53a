"""mesh.yaml as a value: read, checked, and every fault told at once with its place in the file (INTERFACE part 8)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from meshq.control import SERVICE as CONTROL_SERVICE
from meshq.core import names
from meshq.core.names import BadName, Version
from meshq.core.policy_fields import BadPolicy
from meshq.core.scaling_policy import read_policy
from meshq.core.scaling_values import ScalingPolicy
from meshq.core.selectors import Address, parse_address
from meshq.core.subscription_parsing import KEYS as SUBSCRIPTION_KEYS
from meshq.core.subscription_parsing import BadSubscription, parse_short, twice
from meshq.core.subscription_parsing import parse as parse_subscription
from meshq.core.subscriptions import Subscription
from meshq.settings_rules import BROKER_SCHEMES, REGISTRY_SCHEMES

MAX_REPLICAS = 50
"""Of one app."""

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the file, where it is, and what to do about it."""

    place: str
    """`apps[0] (orders).port`; "" for the file as a whole."""
    message: str
    line: int | None = None
    """Counted from 1."""

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.place}: {self.message}" if self.place else f"{where}{self.message}"


class BadMeshFile(Exception):
    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def _text(value: Any) -> Any:
    """YAML reads 1.0 as a number; the models are strict about text, and say so in words one can act on."""
    if isinstance(value, bool) or value is None or not isinstance(value, str | int | float):
        raise ValueError("give text")
    return str(value)


def _service(text: str) -> str:
    names.check_service(text)
    if text == CONTROL_SERVICE:
        raise ValueError(f"{text!r} is what the control API calls itself: choose another name")
    return text


def _version(value: Any) -> Version:
    try:
        return names.parse_version(_text(value))
    except BadName as error:
        hint = f'; YAML reads {value} as a number: write it in full, as "{value}.0"' if isinstance(value, float) else ""
        raise ValueError(f"{error}{hint}") from error


def _address(value: Any) -> Address:
    return parse_address(_text(value))


def _variable(value: Any) -> str:
    """The value of an environment variable: YAML's true and 5 as one would type them in a shell."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        raise ValueError('has no value: write "" for an empty one')
    if not isinstance(value, str | int | float):
        raise ValueError("give text or a number")  # noqa: TRY004 - pydantic reports only ValueError
    return str(value)


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII):
        raise ValueError(f"{name!r} is not the name of an environment variable")
    return name


NOT_HERE = "is for pods: here all apps share one localhost, so name a port in intercept, or call http://orders.localhost:<sidecar's port>/"


def _not_here(_: Any) -> Any:
    raise ValueError(NOT_HERE)


def _url(schemes: tuple[str, ...], example: str) -> AfterValidator:
    def check(text: str) -> str:
        if text.removesuffix(":") == "embedded":
            return "embedded:"
        if text.partition("://")[0] not in schemes or "://" not in text:
            raise ValueError(f"is embedded, or a URL such as {example}")
        return text

    return AfterValidator(check)


BrokerUrl = Annotated[str, _url(BROKER_SCHEMES, "amqp://user:password@host/vhost")]
RegistryUrl = Annotated[str, _url(REGISTRY_SCHEMES, "redis://host:6379/0")]
Text = Annotated[str, BeforeValidator(_text)]
ListenPort = Annotated[int, Field(ge=1, le=65535)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, arbitrary_types_allowed=True, hide_input_in_errors=True
    )


class App(_Strict):
    """One entry of `apps`."""

    service: Annotated[str, BeforeValidator(_text), AfterValidator(_service)]
    version: Annotated[Version, BeforeValidator(_version)]
    command: Annotated[Text, Field(min_length=1)]
    directory: Text = "."
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """None: a free one. 0: the app serves nothing, it only calls out."""
    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1
    health: Annotated[str, Field(pattern=r"^(/\S*)?$")] = ""
    intercept: dict[ListenPort, Annotated[Address, BeforeValidator(_address)]] = Field(default_factory=dict)
    subscribe: tuple[Subscription, ...] = ()
    env: dict[Annotated[str, AfterValidator(_variable_name)], Annotated[str, BeforeValidator(_variable)]] = Field(
        default_factory=dict
    )
    scale: ScalingPolicy | None = None
    """Instead of `replicas`: between its bounds the scaling signal of the app's topic decides."""
    host_ports: Annotated[Any, BeforeValidator(_not_here)] = None
    dns_capture: Annotated[Any, BeforeValidator(_not_here)] = None
    proxy: bool = False
    sidecar_port: Annotated[int, Field(ge=1, le=65533)] | None = None
    """Of the first replica; each further one is 10 higher."""

    @property
    def serves(self) -> bool:
        return self.port != 0

    @property
    def at_start(self) -> int:
        """Replicas that run when all has started."""
        return self.replicas if self.scale is None else self.scale.min

    @property
    def at_most(self) -> int:
        """Replicas that there may ever be; each has its ports from the start."""
        return self.replicas if self.scale is None else self.scale.max


class _Head(_Strict):
    mesh: Annotated[Text, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")] = "default"
    broker: BrokerUrl = "embedded:"
    registry: RegistryUrl = "embedded:"
    apps: Annotated[list[Any], Field(min_length=1)]
    """Each is checked by itself, so that one fault hides no other."""


@dataclass(frozen=True, slots=True)
class MeshFile:
    mesh: str
    broker: str
    """A URL, or `embedded:`; so is `registry`."""
    registry: str
    apps: tuple[App, ...]

    def with_servers(self, broker: str | None, registry: str | None) -> "MeshFile":
        """The same with what the command line says instead, where it says something. Raises BadMeshFile."""
        faults: list[Fault] = []
        found: list[str] = []
        for option, kind, given, own in (
            ("--broker", BrokerUrl, broker, self.broker),
            ("--registry", RegistryUrl, registry, self.registry),
        ):
            try:
                found.append(own if given is None else TypeAdapter(kind).validate_python(given))
            except ValidationError as error:
                faults.append(Fault(option, str(error.errors()[0]["msg"]).removeprefix("Value error, ")))
        if faults:
            raise BadMeshFile(faults)
        return replace(self, broker=found[0], registry=found[1])


def read(path: Path) -> MeshFile:
    """Raises BadMeshFile with every fault."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise BadMeshFile([Fault("", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise BadMeshFile([Fault("", "is not UTF-8 text")]) from error
    return parse(text)


def parse(text: str) -> MeshFile:
    """Raises BadMeshFile with every fault."""
    try:
        root = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else None
        problem = str(error.problem or "cannot be read").splitlines()[0]
        raise BadMeshFile([Fault("", f"not YAML: {problem}", line)]) from error
    except YAMLError as error:
        raise BadMeshFile([Fault("", f"not YAML: {str(error).splitlines()[0]}")]) from error
    if not isinstance(root, CommentedMap):
        raise BadMeshFile([Fault("", "the file has no map at its top: it begins with mesh:, broker: and apps:")])
    faults: list[Fault] = []
    try:
        head = _Head.model_validate(_plain(root))
    except ValidationError as error:
        faults = _faults(error, root, (), _Head)
    apps = list(_apps(root, faults))
    if faults:
        raise BadMeshFile(sorted(faults, key=lambda fault: fault.line or 0))
    return MeshFile(head.mesh, head.broker, head.registry, tuple(apps))


def place(apps: tuple[App, ...], index: int, key: str) -> str:
    """How a fault names its place, for whoever finds one after parsing."""
    return f"apps[{index}] ({apps[index].service}).{key}"


def _apps(root: CommentedMap, faults: list[Fault]) -> Iterator[App]:
    entries = root.get("apps")
    if not isinstance(entries, CommentedSeq):
        return
    for index, entry in enumerate(entries):
        if not isinstance(entry, CommentedMap):
            line = _line(root, ("apps", index))
            faults.append(Fault(f"apps[{index}]", "is not a map with service, version and command", line))
            continue
        plain = _plain(entry)
        plain["subscribe"] = _subscriptions(plain.get("subscribe"), root, index, faults)
        plain["scale"] = _scale(plain, root, index, faults)
        try:
            yield App.model_validate(plain)
        except ValidationError as error:
            faults += _faults(error, root, ("apps", index), App)


def _scale(entry: dict[str, Any], root: CommentedMap, app: int, faults: list[Fault]) -> ScalingPolicy | None:
    """Read as a service's route policy has it, for this one version."""
    if "scale" not in entry:
        return None
    base = ("apps", app, "scale")
    found: list[tuple[str, str]] = []
    policy = ScalingPolicy()
    if "replicas" in entry:
        found.append(("", "the signal says how many, and replicas says it too: leave one of them out"))
    try:
        policy = read_policy(entry["scale"])
    except BadPolicy as bad:
        found += bad.faults
    if policy.max > MAX_REPLICAS:
        found.append(("max", f"must be less than or equal to {MAX_REPLICAS}"))
    for key, message in found:
        location = (*base, key) if key else base
        faults.append(Fault(_place(root, location), message, _line(root, location)))
    return policy


def _subscriptions(listed: Any, root: CommentedMap, app: int, faults: list[Fault]) -> tuple[Subscription, ...]:
    """Read as those of the settings and of the API are."""
    base = ("apps", app, "subscribe")
    if listed is None:
        return ()
    if not isinstance(listed, list):
        faults.append(Fault(_place(root, base), "give a list", _line(root, base)))
        return ()
    found = []
    for index, entry in enumerate(listed):
        try:
            found.append(parse_short(entry) if isinstance(entry, str) else parse_subscription(entry))
        except BadSubscription as bad:
            for key, message in bad.faults:
                location = (*base, index, key) if key else (*base, index)
                hint = _did_you_mean(key, list(SUBSCRIPTION_KEYS)) if message == "no such key" else ""
                faults.append(Fault(_place(root, location), message + hint, _line(root, location)))
    faults += [Fault(_place(root, base), message, _line(root, base)) for message in twice(found)]
    return tuple(found)


def _plain(node: Any) -> Any:
    """Without the parser's own types, which remember comments and places."""
    if isinstance(node, dict):
        return {key if isinstance(key, int) else str(key): _plain(node[key]) for key in node}
    if isinstance(node, list):
        return [_plain(item) for item in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


# --- faults -----------------------------------------------------------------------------------------------------------------

_WORDS = {
    "missing": "is required",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "string_type": "give text",
    "string_too_short": "is empty",
    "dict_type": "give a map",
    "list_type": "give a list",
    "tuple_type": "give a list",
    "too_short": "is empty",
    "model_type": "give a map",
}
_SHAPES = {
    "mesh": "give lower-case letters, digits and hyphens, at most 40",
    "health": "give a path such as /healthz",
}


class _Entry(NamedTuple):
    kind: str
    location: Location
    message: str


def _faults(error: ValidationError, root: CommentedMap, base: Location, model: type[BaseModel]) -> list[Fault]:
    entries = [_Entry(e["type"], (*base, *e["loc"]), str(e["msg"])) for e in error.errors()]
    # A value that fits no member of a union is reported once for each of them.
    first = {entry.location: entry for entry in reversed(entries)}
    return [_fault(entry, root, model) for entry in first.values()]


def _fault(entry: _Entry, root: CommentedMap, model: type[BaseModel]) -> Fault:
    location = tuple(part for part in entry.location if part != "[key]")
    key = str(location[-1]) if location else ""
    message = entry.message.removeprefix("Value error, ")
    if entry.kind == "extra_forbidden":
        message = f"no such key{_did_you_mean(key, _known(model))}"
    elif entry.kind == "string_pattern_mismatch":
        message = _SHAPES.get(key, message)
    elif entry.kind in ("greater_than_equal", "less_than_equal"):
        message = message.replace("Input should be", "must be")
    else:
        message = _WORDS.get(entry.kind, message)
    return Fault(_place(root, location), message, _line(root, location))


def _known(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _did_you_mean(key: str, known: list[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(key.lower().replace("_", "").replace("-", ""), by_lower, n=1, cutoff=0.7)
    return f"; did you mean {by_lower[close[0]]}?" if close else f"; there are {', '.join(known)}"


def _place(root: CommentedMap, location: Location) -> str:
    """`("apps", 0, "env", "LOG")` -> `apps[0] (orders).env.LOG`"""
    text = ""
    for depth, part in enumerate(location):
        if isinstance(part, int) and isinstance(_at(root, location[:depth]), CommentedSeq):
            text += f"[{part}]"
            if location[:depth] == ("apps",):
                text += _service_of(root, part)
        else:
            text += f".{part}" if text else str(part)
    return text


def _service_of(root: CommentedMap, index: int) -> str:
    service = _at(root, ("apps", index, "service"))
    return f" ({service})" if isinstance(service, str) else ""


def _at(root: Any, location: Location) -> Any:
    for part in location:
        try:
            root = root[part]
        except (KeyError, IndexError, TypeError):
            return None
    return root


def _line(root: CommentedMap, location: Location) -> int | None:
    """The line of the last part of `location` that is in the file."""
    node: Any = root
    line: int | None = None
    for part in location:
        try:
            line = node.lc.data[part][0] + 1
            node = node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
