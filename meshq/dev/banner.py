"""What is shown of a plan: what runs where, and how to call it."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from meshq.control import USUAL
from meshq.dev.plan import STEP, Plan, Unit

Row = tuple[str, ...]

HEADINGS: Row = ("APP", "VERSION", "SIDECAR", "PORT", "LISTENS FOR IT")


def lines(plan: Plan, file: Path, control: str, bold: Callable[[str], str]) -> Iterable[str]:
    """The banner at the start; `control` is the URL of the control API."""
    yield bold(f"mesh {plan.mesh}") + f": {summary(plan)}, from {_shown(file)}"
    yield f"broker {_server(plan.broker)}, registry {_server(plan.registry)}, control API {control}"
    yield ""
    yield from table(plan)
    yield ""
    where = "" if control == USUAL else f" --control {control}"
    serving = next((unit for unit in plan.units if unit.port is not None), None)
    through = next((unit.sidecar_port for unit in plan.units if unit.at_start), None)
    if serving is not None:
        yield f"call one:  {_how_to_call(serving.app.service, through, where)}"
    yield f"look:      meshq services{where}    or  meshq queues{where}"
    yield ""


def summary(plan: Plan) -> str:
    apps, most = len({unit.index for unit in plan.units}), len(plan.units)
    least = sum(unit.at_start for unit in plan.units)
    text = "1 app" if apps == 1 else f"{apps} apps"
    if least < most:
        return f"{text} in {least} to {most} replicas"
    return text if apps == most else f"{text} in {most} replicas"


def table(plan: Plan) -> Iterable[str]:
    rows = [HEADINGS]
    for _, units in groupby(plan.units, key=lambda unit: unit.index):
        places = list(units)
        rows += [_row(unit) for unit in places] if places[0].app.scale is None else [_scaled_row(places)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        yield "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _how_to_call(service: str, through: int | None, where: str) -> str:
    """`through`: the port of a sidecar that runs, if one does from the start."""
    if through is None:
        return f"meshq call {service} /{where}"
    return f"curl http://localhost:{through}/v1/call/{service}/    or  curl http://{service}.localhost:{through}/"


def _row(unit: Unit) -> Row:
    port = "only calls" if unit.port is None else str(unit.port)
    return unit.label, str(unit.app.version), str(unit.sidecar_port), port, _intercepted(unit)


def _scaled_row(places: Sequence[Unit]) -> Row:
    """One for all its replicas, which come and go."""
    first = places[0]
    name = f"{first.name}, {first.app.at_start}..{len(places)} replicas"
    ports = _span([unit.port for unit in places if unit.port is not None])
    return name, str(first.app.version), _span([unit.sidecar_port for unit in places]), ports, _intercepted(first)


def _intercepted(unit: Unit) -> str:
    return ", ".join(f"{port} for {address}" for port, address in unit.intercept.items())


def _span(ports: Sequence[int]) -> str:
    """`3600..3640` for ports a step apart."""
    if len(ports) == 1:
        return str(ports[0])
    even = ports == list(range(ports[0], ports[-1] + 1, STEP))
    return f"{ports[0]}..{ports[-1]}" if even else "one each"


def _server(url: str) -> str:
    """Without its password."""
    return "embedded" if url == "embedded:" else re.sub(r"(?<=:)[^:@/]*(?=@)", "***", url)


def _shown(file: Path) -> str:
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)
