"""The folders of examples/ that have a mesh.yaml, run by `meshq dev` as they are, on ports of the test alone."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from tests.e2e.dev_mesh import ROOT, Dev, free_ports, running

EXAMPLES = ROOT / "examples"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""On which `python3`, `uvicorn` and `gunicorn` are those of the tests."""
FIXED = 90
"""From the first port of the mesh: of the apps that name a port."""


class Example(NamedTuple):
    dev: Dev
    sidecars: dict[str, str]
    """The URL of each service's first sidecar."""
    ports: dict[str, str]
    """The URL of each app that names its port."""


@contextmanager
def running_example(name: str, folder: Path, *arguments: str) -> Iterator[Example]:
    """It is ready. `folder` is for a copy of all examples: one may run apps of another."""
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns(".meshq", "__pycache__"))
    sidecars, ports, replicas = _on_ports_of_its_own(folder / name / "mesh.yaml", free_ports())
    with running(folder / name, "--control-port", "0", *arguments, PATH=PATH) as dev:
        dev.wait_for(f"all {replicas} apps are ready")
        yield Example(dev, sidecars, ports)


def _on_ports_of_its_own(file: Path, first: int) -> tuple[dict[str, str], dict[str, str], int]:
    mesh = YAML(typ="safe").load(file)
    sidecars: dict[str, str] = {}
    ports: dict[str, str] = {}
    replicas = 0
    for app in mesh["apps"]:
        app["sidecarPort"] = first + 10 * replicas
        replicas += app.get("replicas", 1)
        sidecars.setdefault(app["service"], f"http://127.0.0.1:{app['sidecarPort']}")
        if app.get("port"):
            app["port"] = first + FIXED + len(ports)
            ports[app["service"]] = f"http://127.0.0.1:{app['port']}"
    with file.open("w") as target:
        YAML().dump(mesh, target)
    return sidecars, ports, replicas
