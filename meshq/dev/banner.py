"""What is shown of a plan: what runs where, and how to call it."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from meshq.control import USUAL
from meshq.dev.plan import Plan, Unit

HEADINGS = ("APP", "VERSION", "SIDECAR", "PORT", "LISTENS FOR IT")


def lines(plan: Plan, file: Path, control: str, bold: Callable[[str], str]) -> Iterable[str]:
    """The banner at the start; `control` is the URL of the control API."""
    yield bold(f"mesh {plan.mesh}") + f": {summary(plan)}, from {_shown(file)}"
    yield f"broker {_server(plan.broker)}, registry {_server(plan.registry)}, control API {control}"
    yield ""
    yield from table(plan)
    yield ""
    serving = next((unit for unit in plan.units if unit.port is not None), None)
    if serving is not None:
        service, port = serving.app.service, plan.units[0].sidecar_port
        yield f"call one:  curl http://localhost:{port}/v1/call/{service}/    or  curl http://{service}.localhost:{port}/"
    where = "" if control == USUAL else f" --control {control}"
    yield f"look:      meshq services{where}    or  meshq queues{where}"
    yield ""


def summary(plan: Plan) -> str:
    apps, units = len({unit.index for unit in plan.units}), len(plan.units)
    text = "1 app" if apps == 1 else f"{apps} apps"
    return text if apps == units else f"{text} in {units} replicas"


def table(plan: Plan) -> Iterable[str]:
    rows = [HEADINGS, *(_row(unit) for unit in plan.units)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        yield "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(unit: Unit) -> Sequence[str]:
    intercepted = ", ".join(f"{port} for {address}" for port, address in unit.intercept.items())
    port = "only calls" if unit.port is None else str(unit.port)
    return unit.label, str(unit.app.version), str(unit.sidecar_port), port, intercepted


def _server(url: str) -> str:
    """Without its password."""
    return "embedded" if url == "embedded:" else re.sub(r"(?<=:)[^:@/]*(?=@)", "***", url)


def _shown(file: Path) -> str:
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)
