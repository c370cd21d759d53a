"""From mesh.yaml to what is to run: who gets which ports, which environment, which name on the terminal. Decides only;
what the machine says (directories, programs, ports in use) is asked in checks.py."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from meshq.core import names
from meshq.core.scaling_values import ScalingPolicy
from meshq.core.selectors import Address
from meshq.core.subscriptions import Mode
from meshq.dev.meshfile import NOT_HERE, App, BadMeshFile, Fault, MeshFile, place

FIRST_PORT = 3600
STEP = 10
APP_OFFSET = 5
"""An app without a port gets the one this far above its sidecar's, if it is free: near it, the same each time, and below
the range from which the system takes ports for outgoing connections, so that none is in its place after a restart."""
MAX_PORT = 65535

FOR_ALL_SIDECARS = (
    "MESHQ_APP_CONCURRENCY", "MESHQ_APP_TIMEOUT", "MESHQ_DRAIN_TIMEOUT", "MESHQ_LOG_LEVEL", "MESHQ_MAX_BODY",
    "MESHQ_PASSTHROUGH", "MESHQ_TLS_CA", "MESHQ_TLS_CERT", "MESHQ_TLS_KEY",
)  # fmt: skip
"""Settings that hold for every sidecar when `meshq dev` finds them in its own environment."""
NO_PROXY = "localhost,127.0.0.1"
USUAL_APP_TIMEOUT = "60s"
"""MESHQ_APP_TIMEOUT where it is not set."""

FreePort = Callable[[int, frozenset[int]], int]
"""A port that nothing listens on: the preferred one if possible, and none of those given."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One replica of one app, and its sidecar."""

    label: str
    """What its lines on the terminal begin with; no two units have the same."""
    name: str
    """Of its app among those that run: the label without the number of the replica."""
    app: App
    index: int
    """Of its app in the file."""
    replica: int
    """Counted from 0."""
    directory: Path
    port: int | None
    """None for an app that only calls out."""
    sidecar_port: int
    intercept: Mapping[int, Address]
    """What this unit's sidecar listens on besides."""
    environment: Mapping[str, str]
    """The app's, whole."""
    sidecar_environment: Mapping[str, str]
    """The MESHQ_* settings of its sidecar."""

    @property
    def admin_port(self) -> int:
        return self.sidecar_port + 1

    @property
    def dns_port(self) -> int:
        return self.sidecar_port + 2

    @property
    def at_start(self) -> bool:
        """Whether it runs from the start, whatever a scaling signal says."""
        return self.replica < self.app.at_start


class Scaled(NamedTuple):
    """An app whose replicas follow the scaling signal of its topic."""

    name: str
    """As Unit.name."""
    topic: str
    policy: ScalingPolicy
    units: tuple[Unit, ...]
    """Its places: as many as it may ever have."""


@dataclass(frozen=True, slots=True)
class Plan:
    mesh: str
    broker: str
    registry: str
    control_port: int
    """0: a free one."""
    units: tuple[Unit, ...]
    warnings: tuple[str, ...]

    @property
    def scaled(self) -> tuple[Scaled, ...]:
        places: dict[int, list[Unit]] = defaultdict(list)
        for unit in self.units:
            places[unit.index].append(unit)
        return tuple(
            Scaled(units[0].name, names.topic(app.service, app.version.major), app.scale, tuple(units))
            for units in places.values()
            if (app := units[0].app).scale is not None
        )

    @property
    def embedded(self) -> bool:
        """Whether the broker, and so every sidecar, lives in the process of `meshq dev`."""
        return self.broker == "embedded:"


def make_plan(
    mesh: MeshFile, folder: Path, environment: Mapping[str, str], control_port: int, free_port: FreePort
) -> Plan:
    """`folder` is where the file is. Raises BadMeshFile with everything in it that cannot be together."""
    sidecar_ports = _sidecar_ports(mesh.apps)
    faults = [*_server_faults(mesh), *_port_faults(mesh.apps, sidecar_ports, control_port)]
    faults += [
        Fault(name, f"{NOT_HERE}; unset it")
        for name in ("MESHQ_HOST_PORTS", "MESHQ_DNS_CAPTURE")
        if environment.get(name, "").lower() not in ("", "0", "false", "off", "no")
    ]
    faults += [
        Fault(
            place(mesh.apps, index, "subscribe"), "events are posted to the app, and port: 0 says that it has no port"
        )
        for index, app in enumerate(mesh.apps)
        if app.subscribe and not app.serves
    ]
    faults += _scale_faults(mesh.apps)
    if faults:
        raise BadMeshFile(faults)
    taken = {port for _, port in _claims(mesh.apps, sidecar_ports, control_port)}
    labels = iter(_labels(mesh.apps))
    units: list[Unit] = []
    for index, app in enumerate(mesh.apps):
        for replica, sidecar_port in enumerate(sidecar_ports[index]):
            port = None if not app.serves else app.port or free_port(sidecar_port + APP_OFFSET, frozenset(taken))
            taken.add(port or 0)
            # One localhost, one listener a port: the first replica's sidecar has it, and all replicas call it.
            intercept = app.intercept if replica == 0 else {}
            units.append(
                Unit(
                    *next(labels),
                    app,
                    index,
                    replica,
                    (folder / app.directory).resolve(),
                    port,
                    sidecar_port,
                    intercept,
                    _app_environment(app, environment, port, sidecar_port),
                    _sidecar_environment(mesh, app, environment, port, sidecar_port, intercept),
                )
            )
    return Plan(mesh.mesh, mesh.broker, mesh.registry, control_port, tuple(units), tuple(_warnings(mesh)))


def _sidecar_ports(apps: tuple[App, ...]) -> list[list[int]]:
    """Per app and replica: the n-th sidecar of all on 3600 + 10 n, unless its app says otherwise."""
    ports: list[list[int]] = []
    counted = 0
    for app in apps:
        first = FIRST_PORT + STEP * counted if app.sidecar_port is None else app.sidecar_port
        ports.append([first + STEP * replica for replica in range(app.at_most)])
        counted += app.at_most
    return ports


def _labels(apps: tuple[App, ...]) -> Iterable[tuple[str, str]]:
    """Per unit its label, and its app's name: `billing`, with the version where a service has several; the label with a number
    where that is not enough."""
    versions: dict[str, set[str]] = defaultdict(set)
    majors: dict[str, set[int]] = defaultdict(set)
    for app in apps:
        versions[app.service].add(str(app.version))
        majors[app.service].add(app.version.major)
    bases: list[str] = []
    for app in apps:
        if len(versions[app.service]) == 1:
            base = app.service
        elif len(majors[app.service]) == len(versions[app.service]):
            base = f"{app.service}@{app.version.major}"
        else:
            base = f"{app.service}@{app.version}"
        bases += [base] * app.at_most
    total, seen = Counter(bases), Counter[str]()
    for base in bases:
        seen[base] += 1
        yield f"{base}/{seen[base]}" if total[base] > 1 else base, base


# --- faults -----------------------------------------------------------------------------------------------------------------


def _server_faults(mesh: MeshFile) -> Iterable[Fault]:
    if mesh.broker == "embedded:":
        return
    if mesh.registry == "embedded:":
        yield Fault(
            "registry",
            "an embedded registry lives in one process, and with a broker of its own each sidecar is a process: "
            "give a registry that all can reach, registry: redis://host (or --registry)",
        )
    for index, app in enumerate(mesh.apps):
        for port, address in app.intercept.items():
            if "," in str(address):  # MESHQ_INTERCEPT is a list with commas
                yield Fault(
                    place(mesh.apps, index, f"intercept.{port}"),
                    f"{address} has a comma, which only the embedded broker's sidecars can be told: use a form such as ^2.1",
                )


def _claims(apps: tuple[App, ...], sidecar_ports: list[list[int]], control_port: int) -> list[tuple[str, int]]:
    """Every port that is decided before anything runs, and whose it is."""
    claims = [("the control API (--control-port)", control_port)] if control_port else []
    for index, app in enumerate(apps):
        for port in sidecar_ports[index]:
            claims += [
                (f"{place(apps, index, 'sidecarPort')}", port),
                (f"{place(apps, index, 'sidecarPort')} + 1", port + 1),
                (f"{place(apps, index, 'sidecarPort')} + 2", port + 2),
            ]
        claims += [(place(apps, index, f"intercept.{port}"), port) for port in app.intercept]
        if app.port:
            claims.append((place(apps, index, "port"), app.port))
    return claims


def _port_faults(apps: tuple[App, ...], sidecar_ports: list[list[int]], control_port: int) -> list[Fault]:
    faults = [
        Fault(
            place(apps, index, "port"),
            f"{app.port} can be held by one replica only, and there are {_how_many(app)}: leave port out, so that each gets one in $PORT",
        )
        for index, app in enumerate(apps)
        if app.port and app.at_most > 1
    ]
    holders: dict[int, list[str]] = defaultdict(list)
    for holder, port in _claims(apps, sidecar_ports, control_port):
        holders[port].append(holder)
    for port, claimed in sorted(holders.items()):
        if port > MAX_PORT:
            faults.append(Fault(claimed[0], f"{port} is beyond the last port there is"))
        elif len(claimed) > 1:
            faults.append(
                Fault(claimed[-1], f"port {port} is also {', '.join(claimed[:-1])}: this machine has it once")
            )
    return faults


def _how_many(app: App) -> str:
    return str(app.replicas) if app.scale is None else f"up to {app.scale.max}"


def _scale_faults(apps: tuple[App, ...]) -> Iterable[Fault]:
    topics = [names.topic(app.service, app.version.major) for app in apps]
    for index, app in enumerate(apps):
        if app.scale is None:
            continue
        at = place(apps, index, "scale")
        if not app.serves:
            yield Fault(at, "nothing waits for an app that only calls out, and port: 0 says that it does: say replicas")
        elif (
            other := next((i for i, topic in enumerate(topics) if topic == topics[index] and i != index), None)
        ) is not None:
            yield Fault(
                at,
                f"the signal is that of {topics[index]}, and {place(apps, other, 'version')} serves it too: "
                "one app of a topic can follow it, if it is the only one",
            )
        elif not app.scale.min and any(each.mode is Mode.REPLAY for each in app.subscribe):
            yield Fault(at, "a log is replayed by a replica, and min 0 may leave none: give a min of 1 or more")


def _warnings(mesh: MeshFile) -> Iterable[str]:
    services = {app.service for app in mesh.apps}
    for app in mesh.apps:
        for port, address in app.intercept.items():
            if address.service not in services:
                yield f"intercept {port} of {app.service}: no app here is called {address.service}"


# --- environments -----------------------------------------------------------------------------------------------------------


def _app_environment(app: App, environment: Mapping[str, str], port: int | None, sidecar_port: int) -> dict[str, str]:
    made = {name: value for name, value in environment.items() if not name.startswith("MESHQ_") and name != "PORT"}
    url = f"http://127.0.0.1:{sidecar_port}"
    made |= {"PYTHONUNBUFFERED": "1", "MESHQ_URL": url}
    if port is not None:
        made["PORT"] = str(port)
    if app.proxy:
        made |= {"HTTP_PROXY": url, "http_proxy": url, "NO_PROXY": NO_PROXY, "no_proxy": NO_PROXY}
    return made | app.env


def _sidecar_environment(
    mesh: MeshFile,
    app: App,
    environment: Mapping[str, str],
    port: int | None,
    sidecar_port: int,
    intercept: Mapping[int, Address],
) -> dict[str, str]:
    made = {name: environment[name] for name in FOR_ALL_SIDECARS if name in environment}
    made |= {
        "MESHQ_SERVICE": app.service,
        "MESHQ_SERVICE_VERSION": str(app.version),
        "MESHQ_MESH": mesh.mesh,
        "MESHQ_BROKER_URL": mesh.broker,
        "MESHQ_REGISTRY_URL": mesh.registry,
        "MESHQ_APP_HEALTH": app.health,
        "MESHQ_PORT": str(sidecar_port),
        "MESHQ_ADMIN_PORT": str(sidecar_port + 1),
        "MESHQ_DNS_PORT": str(sidecar_port + 2),
        "MESHQ_INTERCEPT": ",".join(f"{listen}={address}" for listen, address in intercept.items()),
    }
    if logged := [*_replayed(mesh), *filter(None, [environment.get("MESHQ_LOG_EVENTS")])]:
        # By all of them: a log has what comes after somebody asked for it, whoever is first.
        made["MESHQ_LOG_EVENTS"] = ",".join(logged)
    if app.subscribe:
        made["MESHQ_SUBSCRIBE"] = json.dumps([subscription.as_json() for subscription in app.subscribe])
    if port is not None:
        made["MESHQ_APP_PORT"] = str(port)
    if app.scale is not None:
        # A replica that is not needed any more has all the time that a message may take.
        made.setdefault("MESHQ_DRAIN_TIMEOUT", made.get("MESHQ_APP_TIMEOUT", USUAL_APP_TIMEOUT))
    return made


def _replayed(mesh: MeshFile) -> list[str]:
    subscriptions = [subscription for app in mesh.apps for subscription in app.subscribe]
    return sorted({str(each.events) for each in subscriptions if each.mode is Mode.REPLAY})
