"""The command line beside a running dev mesh, which it finds by itself."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.e2e.dev_mesh import Dev, command, echo, environment, free_ports, meshq, running, write_mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("cli") / "mesh"
    first = free_ports()
    write_mesh(folder, echo("orders", first, version="2.1.0"), echo("caller", first + 10, command="sleep 600", port=0))
    (folder / "deep" / "er").mkdir(parents=True)
    with running(folder, "--control-port", "0") as dev:
        dev.wait_for("all 2 apps are ready")
        yield dev


def test_services_are_found_from_a_folder_below(mesh: Dev) -> None:
    done = meshq("services", "-o", "json", cwd=mesh.folder / "deep" / "er")
    assert done.returncode == 0
    assert json.loads(done.stdout) == [
        {
            "name": "caller",
            "versions": [{"version": "1.0.0", "topic": None, "instances": 1, "ready": 1, "states": {"ready": 1}}],
        },
        {
            "name": "orders",
            "versions": [
                {"version": "2.1.0", "topic": "orders.v2", "instances": 1, "ready": 1, "states": {"ready": 1}}
            ],
        },
    ]


def test_instances_of_one_service_as_yaml(mesh: Dev) -> None:
    done = meshq("instances", "orders", "-o", "yaml", cwd=mesh.folder)
    (instance,) = YAML(typ="safe").load(done.stdout)
    assert (instance["service"], instance["version"], instance["state"]) == ("orders", "2.1.0", "ready")


def test_queues_as_a_table(mesh: Dev) -> None:
    done = meshq("queues", cwd=mesh.folder)
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == [
        "TOPIC",
        "QUEUE",
        "KIND",
        "READY",
        "IN",
        "FLIGHT",
        "CONSUMERS",
        "OLDEST",
        "IN/S",
        "OUT/S",
        "DEAD",
    ]
    ours = [row.split() for row in rows if row.startswith("orders.v2 ")]
    assert [row[1:3] for row in ours] == [[f"meshq.orders.v2.{kind}", kind] for kind in ("call", "dead", "work")]
    assert [row[5] for row in ours] == ["1", "0", "1"], "consumers"


@pytest.mark.parametrize("way", ["--control", "MESHQ_CONTROL_URL", "folder"])
def test_a_mesh_elsewhere_is_named(mesh: Dev, tmp_path: Path, way: str) -> None:
    if way == "MESHQ_CONTROL_URL":
        done = meshq("services", "-o", "json", cwd=tmp_path, MESHQ_CONTROL_URL=mesh.control)
    else:
        done = meshq(
            "services",
            "-o",
            "json",
            "--control",
            mesh.control if way == "--control" else str(mesh.folder),
            cwd=tmp_path,
        )
    assert [service["name"] for service in json.loads(done.stdout)] == ["caller", "orders"]


def test_watching_writes_one_document_after_another(mesh: Dev) -> None:
    watching = subprocess.Popen(
        command("services", "-o", "json", "--watch"),
        cwd=mesh.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    documents = [json.loads(watching.stdout.readline()) for _ in range(2)]
    watching.terminate()
    watching.communicate(timeout=30)
    assert documents[0] == documents[1]
    assert [service["name"] for service in documents[0]] == ["caller", "orders"]


def test_a_call_prints_the_body_of_the_answer(mesh: Dev) -> None:
    done = meshq("call", "orders@^2.1", "/list?x=1", "-H", "X-Extra: yes", cwd=mesh.folder)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert (seen["method"], seen["path"], seen["extra"], seen["host"]) == ("GET", "/list?x=1", "yes", "orders.mesh")
    assert seen["caller"] == "meshq-control"


@pytest.mark.parametrize(
    ("arguments", "stdin", "method", "body", "kind"),
    [
        (["-d", '{"a": 1}'], "", "POST", '{"a": 1}', "application/json"),
        (["-d", "a=1&b=2"], "", "POST", "a=1&b=2", "application/x-www-form-urlencoded"),
        (["-d", "@-"], "[1]\n", "POST", "[1]\n", "application/json"),
        (["-d", "@body.txt"], "", "POST", "from a file\n", "application/x-www-form-urlencoded"),
        (["-X", "PUT", "-d", "x", "-H", "content-type: text/plain"], "", "PUT", "x", "text/plain"),
    ],
)
def test_a_call_with_a_body(
    mesh: Dev, tmp_path: Path, arguments: list[str], stdin: str, method: str, body: str, kind: str
) -> None:
    (tmp_path / "body.txt").write_text("from a file\n")
    done = meshq("call", "orders", "/", *arguments, "--control", mesh.control, cwd=tmp_path, stdin=stdin)
    seen = json.loads(done.stdout)
    assert (seen["method"], seen["body"], seen["type"]) == (method, body, kind)


def test_status_and_headers_are_shown_when_asked_for(mesh: Dev) -> None:
    done = meshq("call", "orders", "/", "-i", cwd=mesh.folder)
    assert done.stderr.startswith("HTTP 200\n")
    assert "Meshq-Served-By: orders/2.1.0/" in done.stderr
    assert json.loads(done.stdout)["path"] == "/"


def test_an_error_of_the_app_is_1_and_its_body_is_shown(mesh: Dev) -> None:
    done = meshq("call", "orders", "/missing", cwd=mesh.folder)
    assert (done.returncode, done.stderr) == (1, "meshq: the app answered 404\n")
    assert json.loads(done.stdout)["path"] == "/missing"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nobody", "/"], "unknown-service"),
        (["orders@7", "/"], "no-such-version"),
        (["orders", "/slow", "--timeout", "100ms"], "deadline"),
    ],
)
def test_an_error_of_the_mesh_is_one_sentence_with_its_code(mesh: Dev, arguments: list[str], code: str) -> None:
    done = meshq("call", *arguments, cwd=mesh.folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("meshq: ")
    assert done.stderr.endswith(f"({code})\n")
    assert done.stderr.count("\n") == 1
