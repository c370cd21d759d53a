"""The command line: wrong usage, exit codes, tables; what it shows of a running mesh is in tests/e2e/test_cli.py."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from ruamel.yaml import YAML
from typer.testing import CliRunner

from meshq import __version__
from meshq.cli import reach, tables, writing
from meshq.cli.main import app
from meshq.control.tokens import Tokens
from tests.e2e.dev_mesh import environment

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
GOOD = "apps:\n  - {service: orders, version: 1.0.0, command: sh run.sh}\n"

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_port: int) -> Path:
    """A folder without a dev mesh, an environment that names no mesh, and nobody on the usual port."""
    for name in (
        "MESHQ_CONTROL_URL",
        "MESHQ_BROKER_URL",
        "MESHQ_REGISTRY_URL",
        "MESHQ_MANAGEMENT_URL",
        "MESHQ_MESH",
        "MESHQ_CONTROL_SECRET",
        "MESHQ_API_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(reach, "USUAL", f"http://127.0.0.1:{free_port}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["--nothing"],
        ["call"],
        ["call", "orders"],
        ["call", "Orders", "/"],
        ["call", "orders@x", "/"],
        ["call", "orders", "/a b"],
        ["call", "orders", "/", "--timeout", "5"],
        ["call", "orders", "/", "-H", "no colon"],
        ["call", "orders", "/", "-H", "A: b\r\nC: d"],
        ["call", "orders", "/", "-d", "@not-there"],
        ["call", "orders", "/", "-X", "GET POST"],
        ["publish"],
        ["publish", "Payments.settled"],
        ["publish", "payments.settled@x"],
        ["publish", "payments.*"],
        ["publish", "payments.settled", "-H", "no colon"],
        ["publish", "payments.settled", "-d", "@not-there"],
        ["services", "-o", "xml"],
        ["queues", "extra"],
        ["dev", "--for", "5"],
        ["dev", "--control-port", "70000"],
        ["pause"],
        ["pause", ""],
        ["pause", "host-a", "--for", "5"],
        ["pause", "host-a", "--for", "0s"],
        ["drain", "host-a", "--timeout", "soon"],
        ["retire", "orders"],
        ["retire", "orders@^1"],
        ["retire", "Orders@1"],
        ["retire", "orders@1", "--quiet-for", "soon"],
        ["route", "show", "Orders"],
        ["route", "set", "orders"],
        ["route", "set", "reply", "--weight", "1=1"],
        ["route", "set", "orders", "--file", "not-there"],
        ["control", "--port", "70000"],
        ["control", "--listen", "somewhere"],
        ["control", "--allow-host", "control:3590"],
        ["control", "token"],
        ["control", "token", "Orders"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = run(app, arguments)
    assert result.exit_code == 2
    assert result.output.startswith("Usage: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["services"],
        ["instances"],
        ["instances", "orders"],
        ["queues", "--all"],
        ["call", "orders", "/"],
        ["publish", "payments.settled"],
        ["pause", "host-a"],
        ["resume", "host-a"],
        ["drain", "host-a", "--wait"],
        ["retire", "orders@1"],
        ["route", "show"],
        ["route", "show", "orders"],
        ["route", "set", "orders", "--weight", "1=1"],
        ["route", "clear", "orders"],
    ],
)
def test_without_a_mesh_it_is_69_and_says_what_to_do(arguments: list[str]) -> None:
    result = run(app, arguments)
    assert result.exit_code == 69
    assert result.stdout == ""
    assert "start one with `meshq dev`" in result.stderr
    assert "MESHQ_CONTROL_URL" in result.stderr


def test_a_control_api_that_does_not_answer_is_69(free_port: int) -> None:
    result = run(app, ["services", "--control", f"http://127.0.0.1:{free_port}"])
    assert result.exit_code == 69
    assert f"http://127.0.0.1:{free_port} cannot be reached" in result.stderr


def test_a_broker_that_does_not_answer_is_69(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("MESHQ_BROKER_URL", f"amqp://127.0.0.1:{free_port}")
    result = run(app, ["queues"])
    assert result.exit_code == 69
    assert f"nothing listens on 127.0.0.1:{free_port}" in result.stderr


def test_a_registry_that_is_not_named_is_said(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("MESHQ_BROKER_URL", f"amqp://127.0.0.1:{free_port}")
    result = run(app, ["services"])
    assert result.exit_code == 69
    assert "set MESHQ_REGISTRY_URL" in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1", "amqp://:99999", "embedded:"])
def test_a_broker_url_that_makes_no_sense_is_64(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MESHQ_BROKER_URL", url)
    result = run(app, ["queues"])
    assert result.exit_code == 64
    assert "MESHQ_BROKER_URL" in result.stderr


def test_bad_settings_of_the_control_api_are_64_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MESHQ_REGISTRY_URL": "embedded:",
        "MESHQ_MESH": "Shop",
        "MESHQ_CONTROL_SECRET": "short",
        "MESHQ_TLS_CA": "not-there",
        "MESHQ_LOG_LEVEL": "loud",
    }.items():
        monkeypatch.setenv(name, value)
    result = run(app, ["control"])
    assert result.exit_code == 64
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
        "MESHQ_BROKER_URL", "MESHQ_REGISTRY_URL", "MESHQ_TLS_CA", "MESHQ_MESH", "MESHQ_CONTROL_SECRET", "MESHQ_LOG_LEVEL",
    ]  # fmt: skip
    assert "short" not in result.stderr


def test_a_token_is_made_of_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(app, ["control", "token", "orders"])
    assert (result.exit_code, result.stdout) == (69, "")
    assert "no MESHQ_CONTROL_SECRET is set" in result.stderr
    monkeypatch.setenv("MESHQ_CONTROL_SECRET", "0123456789abcdef,fedcba9876543210")
    monkeypatch.setenv("MESHQ_MESH", "shop")
    result = run(app, ["control", "token", "orders"])
    assert (result.exit_code, result.stdout) == (0, Tokens("shop", ["0123456789abcdef"]).make("orders") + "\n")
    monkeypatch.setenv("MESHQ_CONTROL_SECRET", "short")
    assert run(app, ["control", "token", "orders"]).exit_code == 64


def test_a_bad_mesh_file_is_64_with_every_fault(nowhere: Path) -> None:
    (nowhere / "mesh.yaml").write_text("msh: x\napps:\n  - {service: A, version: 1, command: x}\n")
    result = run(app, ["dev", "--check"])
    assert result.exit_code == 64
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["mesh.yaml", "mesh.yaml", "mesh.yaml"]
    assert "line 1: msh: no such key; did you mean mesh?" in lines[0]


def test_a_mesh_file_that_is_not_there_is_64() -> None:
    result = run(app, ["dev"])
    assert (result.exit_code, result.stderr) == (
        64,
        "meshq: mesh.yaml: cannot be read: No such file or directory\n",
    )


def test_check_shows_what_would_run_and_runs_nothing(nowhere: Path) -> None:
    (nowhere / "mesh.yaml").write_text(GOOD)
    result = run(app, ["dev", "--check"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "mesh.yaml: 1 app, all is well"
    assert "orders  1.0.0    3600" in result.stdout
    assert sorted(path.name for path in nowhere.iterdir()) == ["mesh.yaml"]


def test_a_broker_of_its_own_needs_a_registry_of_its_own(nowhere: Path) -> None:
    (nowhere / "mesh.yaml").write_text(GOOD)
    result = run(app, ["dev", "--check", "--broker", "amqp://h/v"])
    assert result.exit_code == 64
    assert "registry: redis://host" in result.stderr
    assert run(app, ["dev", "--check", "--broker", "amqp://h/v", "--registry", "redis://r"]).exit_code == 0


def test_the_program_as_a_process() -> None:
    def meshq(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "meshq", *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)

    assert meshq("--version").stdout == f"meshq {__version__}\n"
    shown = meshq("--help")
    assert shown.returncode == 0
    for name in ("dev", "call", "services", "instances", "queues", "sidecar"):
        assert f"\n  {name} " in shown.stdout
    assert meshq("call").returncode == 2


def test_help_imports_no_server_code() -> None:
    """It is there at once only because the commands import what they need when they run."""
    script = (
        "import sys; sys.argv = ['meshq', '--help']\nfrom meshq.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\nprint('|'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=30, check=True
    )
    modules = set(done.stdout.splitlines()[-1].split("|"))
    assert "typer" in modules
    assert not modules & {"pika", "redis", "pydantic", "ruamel.yaml", "rich.table", "httptools", "asyncio", "sqlite3"}


# --- formats ------------------------------------------------------------------------------------------------------------------

SERVICES = [
    {
        "name": "orders",
        "versions": [
            {"version": "1.4.2", "topic": "orders.v1", "instances": 2, "ready": 1, "states": {"ready": 1, "down": 1}},
            {"version": "2.0.0", "topic": None, "instances": 0, "ready": 0, "states": {}},
        ],
    }
]
INSTANCES = [
    {
        "id": "host-a", "service": "orders", "version": "1.4.2", "state": "ready", "lastSeen": "2026-11-22T11:58:50.000Z",
        "address": "host:3600", "inFlight": 3, "capacity": 16, "metadata": {},
    },
    {
        "id": "host-b", "service": "shopper", "version": "1.0.0", "state": "down", "lastSeen": None,
        "address": "", "inFlight": 0, "capacity": 0, "metadata": {},
    },
]  # fmt: skip
QUEUES = [
    {
        "topic": "orders.v1", "queue": "meshq.orders.v1.call", "kind": "call", "ready": 12, "inFlight": 0, "consumers": 0,
        "oldestAgeSeconds": 3725.2, "inRate": 0.25, "outRate": 0.0, "dead": 0,
    },
    {
        "topic": None, "queue": "meshq.lost", "kind": "lost", "ready": 1, "inFlight": None, "consumers": None,
        "oldestAgeSeconds": None, "inRate": None, "outRate": None, "dead": None,
    },
]  # fmt: skip


def shown(table: tables.Table) -> list[str]:
    return [line.rstrip() for line in str(writing.as_text(table)).splitlines()]


def test_a_table_of_services() -> None:
    assert shown(tables.services(SERVICES)) == [
        "SERVICE  VERSION  TOPIC      INSTANCES  READY  STATES",
        "orders   1.4.2    orders.v1          2      1  1 ready, 1 down",
        "orders   2.0.0    -                  0      0  -",
    ]


def test_a_table_of_instances() -> None:
    assert shown(tables.instances(INSTANCES, NOW)) == [
        "SERVICE  VERSION  INSTANCE  STATE  LAST SEEN  IN FLIGHT  ADDRESS",
        "orders   1.4.2    host-a    ready  1m10s ago       3/16  host:3600",
        "shopper  1.0.0    host-b    down           -          -  -",
    ]


def test_a_table_of_queues_says_what_is_not_known() -> None:
    assert shown(tables.queues(QUEUES)) == [
        "TOPIC      QUEUE                 KIND  READY  IN FLIGHT  CONSUMERS  OLDEST  IN/S  OUT/S  DEAD",
        "orders.v1  meshq.orders.v1.call  call     12          0          0   1h02m   0.2    0.0     0",
        "-          meshq.lost            lost      1          -          -       -     -      -     -",
    ]


def test_colour_only_where_it_tells() -> None:
    abandoned, lost = tables.queues(QUEUES).rows
    assert [cell.style for cell in abandoned] == [""] * 5 + ["red"] + [""] * 4
    assert {cell.style for cell in lost} == {""}
    written = io.StringIO()
    Console(file=written, force_terminal=True, color_system="standard").print(writing.as_text(tables.queues(QUEUES)))
    assert "\033[31m" in written.getvalue()


@pytest.mark.parametrize(
    ("as_table", "said"),
    [(tables.services, "no services"), (tables.instances, "no instances"), (tables.queues, "no queues")],
)
def test_nothing_to_show_is_said(
    as_table: Callable[[Any], tables.Table], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    writing.show([], as_table, "table")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(said)


def test_json_and_yaml_are_the_body_itself(capsys: pytest.CaptureFixture[str]) -> None:
    writing.show(QUEUES, tables.queues, "json")
    assert json.loads(capsys.readouterr().out) == QUEUES
    writing.show(QUEUES, tables.queues, "yaml")
    assert YAML(typ="safe").load(capsys.readouterr().out) == QUEUES


def test_watching_repeats_documents_until_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    waits = iter([None, None])

    def wait() -> None:
        if next(waits, "over") == "over":
            raise KeyboardInterrupt

    writing.watch(lambda: SERVICES, tables.services, "json", wait)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [SERVICES] * 3
