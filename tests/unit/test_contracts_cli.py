"""`meshq contracts`: documents of services that are imported, and two versions beside each other; exit codes and words."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from ruamel.yaml import YAML
from typer.testing import CliRunner

from meshq.cli.main import app
from tests.e2e.dev_mesh import environment

SERVICE = '''
from pydantic import BaseModel
from meshq import Service

class Order(BaseModel):
    item: str
    {field}

orders = Service("orders", version="{version}")

@orders.post("/create")
async def create(order: Order) -> Order:
    """Take an order."""

@orders.on("payments.settled@1")
async def settled(event: {event}) -> None:
    """Book it."""

class shop:
    orders = orders
'''

run = CliRunner().invoke


def write(folder: Path, name: str, version: str, field: str = "count: int = 1", event: str = "Order") -> None:
    (folder / f"{name}.py").write_text(SERVICE.format(version=version, field=field, event=event))


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The current one, with three versions of a service; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "orders1", "1.0.0")
    write(tmp_path, "orders1_1", "1.1.0", "count: int = 1\n    note: str = ''")
    write(tmp_path, "orders1_2", "1.2.0", "count: int")
    write(tmp_path, "orders2", "2.0.0", "count: int")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("orders") or name == "broken":
            del sys.modules[name]


def test_show_prints_the_document() -> None:
    result = run(app, ["contracts", "show", "orders1:orders"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    validate(document)
    assert document["info"] == {"title": "orders", "version": "1.0.0"}


def test_show_as_yaml_has_no_aliases() -> None:
    result = run(app, ["contracts", "show", "orders1:shop.orders", "--kind", "asyncapi", "-o", "yaml"])
    assert result.exit_code == 0
    document = YAML(typ="safe").load(result.stdout)
    assert document["asyncapi"] == "3.0.0"
    assert "&id" not in result.stdout


@pytest.mark.parametrize(
    ("kind", "operations"),
    [
        ("openapi", ["POST /create", "Take an order."]),
        ("asyncapi", ["create", "create.durable", "on.settled", "Take an order.", "Book it."]),
    ],
)
def test_show_as_a_table(kind: str, operations: list[str]) -> None:
    result = run(app, ["contracts", "show", "orders1:orders", "--kind", kind, "-o", "table"])
    assert result.exit_code == 0
    assert result.stdout.startswith("OPERATION")
    assert all(each in result.stdout for each in operations)


def test_what_only_adds_is_0() -> None:
    result = run(app, ["contracts", "check", "orders1:orders", "orders1_1:orders"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split("  ", 1)[0] for line in result.stdout.splitlines()] == ["", "fits", "fits", "fits"]
    assert "POST /create request.note" in result.stdout


def test_what_breaks_is_1_and_wants_a_new_major() -> None:
    result = run(app, ["contracts", "check", "orders1:orders", "orders1_2:orders"])
    assert result.exit_code == 1
    assert result.stderr == (
        "meshq: 2 changes break callers of 1.0.0: that wants a new major version, which 1.2.0 is not\n"
    )
    assert [line.split() for line in result.stdout.splitlines() if line.startswith("breaks")] == [
        ["breaks", "POST", "/create", "request.count", "is", "required", "now"],
        ["breaks", "payments.settled@1", "request.count", "is", "required", "now"],
    ]


def test_a_new_major_may_break() -> None:
    result = run(app, ["contracts", "check", "orders1:orders", "orders2:orders"])
    assert result.exit_code == 0
    assert result.stderr == "meshq: 2 changes break callers of 1.0.0; 2.0.0 is a new major version, so it may\n"


def test_nothing_changed() -> None:
    result = run(app, ["contracts", "check", "orders1:orders", "orders1:orders"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing changed\n")


def test_findings_as_json_and_yaml() -> None:
    arguments = ["contracts", "check", "orders1:orders", "orders1_2:orders", "--kind", "openapi", "-o"]
    expected = {
        "old": "1.0.0", "new": "1.2.0", "newMajor": False, "breaking": 1,
        "findings": [
            {"place": "POST /create request.count", "sentence": "is required now", "breaking": True},
            {"place": "POST /create response.count", "sentence": "is always there now", "breaking": False},
        ],
    }  # fmt: skip
    as_json, as_yaml = run(app, [*arguments, "json"]), run(app, [*arguments, "yaml"])
    assert (as_json.exit_code, json.loads(as_json.stdout)) == (1, expected)
    assert (as_yaml.exit_code, YAML(typ="safe").load(as_yaml.stdout)) == (1, expected)


def test_files_of_both_kinds_and_standard_input(folder: Path) -> None:
    for kind in ("openapi", "asyncapi"):
        for form in ("json", "yaml"):
            shown = run(app, ["contracts", "show", "orders1:orders", "--kind", kind, "-o", form]).stdout
            (folder / f"old.{form}").write_text(shown)
            assert run(app, ["contracts", "check", f"old.{form}", "orders1_1:orders"]).exit_code == 0
            broken = run(app, ["contracts", "check", f"old.{form}", "orders1_2:orders"])
            assert broken.exit_code == 1
            assert "1 change" in broken.stderr or "2 changes" in broken.stderr
            assert run(app, ["contracts", "check", "-", "orders1_1:orders"], input=shown).exit_code == 0


def test_a_removed_subscription_breaks(folder: Path) -> None:
    (folder / "orders_none.py").write_text("from meshq import Service\norders = Service('orders', version='1.0.0')\n")
    result = run(app, ["contracts", "check", "orders1:orders", "orders_none:orders", "--kind", "asyncapi"])
    assert result.exit_code == 1
    assert "payments.settled@1  is gone" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], "Missing argument"),
        (["show", "orders1"], "is not a module and an object in it"),
        (["show", "nowhere:orders"], "nowhere cannot be imported: ModuleNotFoundError"),
        (["show", "broken:orders"], "broken cannot be imported: ZeroDivisionError"),
        (["show", "orders1:nothing"], "there is no meshq.Service nothing in orders1"),
        (["show", "orders1:Order"], "there is no meshq.Service Order in orders1"),
        (["show", "orders_opaque:orders", "--kind", "asyncapi"], "has no schema"),
        (["show", "orders1:orders", "-o", "xml"], "is not one of"),
        (["check", "orders1:orders"], "Missing argument"),
        (["check", "-", "-"], "only one of the two"),
        (["check", "not-there.json", "orders1:orders"], "No such file or directory"),
        (["check", "orders1.py", "orders1:orders"], "orders1.py"),
        (["check", "list.yaml", "orders1:orders"], "has no map at its top"),
        (["check", "other.yaml", "orders1:orders"], "neither openapi nor asyncapi"),
        (["check", "circle.yaml", "orders1:orders"], "leads nowhere"),
        (["check", "event.yaml", "circle.yaml"], "there is nothing to compare"),
        (["check", "event.yaml", "orders1:orders", "--kind", "openapi"], "there is nothing to compare"),
    ],
)
def test_wrong_usage_is_2(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "list.yaml").write_text("- a\n")
    (folder / "other.yaml").write_text("swagger: '2.0'\n")
    (folder / "circle.yaml").write_text("openapi: 3.1.0\npaths: {/create: {post: {$ref: '#/no'}}}\n")
    (folder / "event.yaml").write_text("asyncapi: 3.0.0\n")
    write(folder, "orders_opaque", "1.0.0", event="type('Opaque', (), {})")
    result = run(app, ["contracts", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")
    assert said in " ".join(result.stderr.split())


def test_a_date_in_yaml_is_what_json_has_of_it(folder: Path) -> None:
    shown: dict[str, Any] = json.loads(run(app, ["contracts", "show", "orders1:orders"]).stdout)
    shown["info"]["x-since"] = "SINCE"
    (folder / "old.yaml").write_text(json.dumps(shown).replace('"SINCE"', "2026-01-01\n"))
    assert run(app, ["contracts", "check", "old.yaml", "orders1:orders"]).exit_code == 0


def test_as_a_program_in_the_folder_of_the_module(folder: Path) -> None:
    """The console script has no current folder on its path by itself."""
    script = "import sys; sys.path.pop(0); sys.argv[0] = 'meshq'\nfrom meshq.__main__ import main\nmain()"
    command = [sys.executable, "-c", script, "contracts", "check", "orders1:orders", "orders1_2:orders"]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "wants a new major version" in done.stderr
