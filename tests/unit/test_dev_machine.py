"""What `meshq dev` asks of the machine and keeps on it: programs, ports, the folder .meshq, backoff."""

import io
import json
import os
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshq.dev import checks, meshfile, state
from meshq.dev.output import RUNNER, Output, say_logged
from meshq.dev.plan import Plan, make_plan
from meshq.dev.process import Backoff


def plan(folder: Path, **app: Any) -> Plan:
    text = json.dumps({"apps": [{"service": "a", "version": "1.0.0", "command": "true", **app}]})
    return make_plan(meshfile.parse(text), folder, dict(os.environ), 0, lambda preferred, taken: preferred)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("python app.py", "python"),
        ("exec gunicorn --bind $PORT app:app", "gunicorn"),
        ("A=1 B=2 ./run.sh", "./run.sh"),
        ("'my program' x", "my program"),
        ("$HOME/run", ""),
        ("(cd x; run)", ""),
        ("echo 'unclosed", ""),
        ("", ""),
    ],
)
def test_the_program_of_a_command(command: str, word: str) -> None:
    assert checks.first_word(command) == word


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("sh run.sh", "exec sh run.sh"),
        ("exec sh run.sh", "exec sh run.sh"),
        ("cd x && sh run.sh", "cd x && sh run.sh"),
        ("A=1 sh run.sh", "A=1 sh run.sh"),
        ("no-such-program-here x", "no-such-program-here x"),
    ],
)
def test_a_plain_command_replaces_the_shell(command: str, line: str) -> None:
    assert checks.command_line(command) == line


@pytest.mark.parametrize("command", ["sh run.sh", "cd sub && x", "A=1 sh x", "./own.sh", "$X y", "while :; do :; done"])
def test_commands_that_the_shell_finds(tmp_path: Path, command: str) -> None:
    (tmp_path / "own.sh").write_text("#!/bin/sh\n")
    (tmp_path / "own.sh").chmod(0o755)
    assert checks.missing(plan(tmp_path, command=command)) == []


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert [str(fault) for fault in checks.missing(plan(tmp_path, command="no-such-program-here x"))] == [
        "apps[0] (a).command: 'no-such-program-here' is not found: is it installed, and in PATH?"
    ]
    assert [str(fault) for fault in checks.missing(plan(tmp_path, directory="nowhere"))] == [
        f"apps[0] (a).directory: {tmp_path / 'nowhere'} is not a directory"
    ]


def test_a_taken_port_is_told_with_its_holder(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        (sentence,) = [
            said
            for said in checks.taken_ports(plan(tmp_path, sidecarPort=port, port=0))
            if f"{port} (the sidecar of a)" in said
        ]
        assert checks.free_port(port, frozenset()) != port
    assert f"(process {os.getpid()})" in sentence
    assert "sidecarPort of a" in sentence


def test_the_preferred_port_is_taken_if_it_can_be(free_port: int) -> None:
    assert checks.free_port(free_port, frozenset()) == free_port
    assert checks.free_port(free_port, frozenset({free_port})) != free_port


def test_the_folder_belongs_to_one_run_and_is_found_from_below(tmp_path: Path) -> None:
    below = tmp_path / "src" / "deep"
    below.mkdir(parents=True)
    folder = state.Folder(tmp_path)
    running = state.Running("http://127.0.0.1:1", os.getpid(), str(tmp_path / "mesh.yaml"))
    folder.announce(running)
    assert state.find(below) == state.Found(running, "", tmp_path / ".meshq")
    with pytest.raises(state.AlreadyRunning, match=f"process {os.getpid()}"):
        state.Folder(tmp_path)
    folder.release()
    assert state.find(below) == state.Found(None, "")
    again = state.Folder(tmp_path)
    assert not again.left_behind
    again.release()


def test_the_secret_is_kept_for_the_next_run_and_for_nobody_else(tmp_path: Path) -> None:
    folder = state.Folder(tmp_path)
    secret = folder.secret()
    assert len(secret) == 64
    assert stat.S_IMODE((folder.path / state.SECRET).stat().st_mode) == 0o600
    folder.release()
    again = state.Folder(tmp_path)
    assert again.secret() == secret == state.read_secret(again.path)
    (again.path / state.SECRET).write_text("\n")
    assert again.secret() != secret, "an empty one makes no tokens"
    assert state.read_secret(tmp_path) == ""
    again.release()


def test_what_a_killed_run_left_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / ".meshq").mkdir()
    file = tmp_path / ".meshq" / "dev.json"
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    file.write_text(json.dumps({"control": "http://127.0.0.1:1", "pid": pid, "file": "x"}))
    found = state.find(tmp_path)
    assert found.running is None
    assert f"process {pid}" in found.hint
    file.write_text("{")
    assert state.find(tmp_path) == state.Found(None, "")
    folder = state.Folder(tmp_path)
    assert folder.left_behind
    folder.release()


def test_backoff_doubles_to_a_bound_and_forgets_after_a_steady_life() -> None:
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert [backoff.after(30.0), backoff.after(1.0)] == [0.5, 1]


def written(*, colour: bool) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    output = Output(stream, ["a", "orders@1"], colour, lambda: None)
    output.app("a", "hello")
    output.said("orders@1", "ready")
    say_logged(output, "a", '{"level": "warning", "message": "careful", "time": "x"}')
    say_logged(output, "a", "Traceback")
    output.said(RUNNER, "ended")
    output.close()
    stream.seek(0)
    return stream.read()


def test_lines_are_prefixed_and_aligned() -> None:
    assert written(colour=False) == (
        "a        │ hello\norders@1 ┆ ready\na        ┆ warning: careful\na        ┆ Traceback\nmeshq    ┆ ended\n"
    )


def test_colour_tells_who_speaks_and_what_is_wrong() -> None:
    lines = written(colour=True).splitlines()
    assert lines[0] == "\033[36ma        │\033[0m hello"
    assert lines[1].endswith("\033[2mready\033[0m")
    assert lines[2].endswith("\033[31mwarning: careful\033[0m")


def test_a_terminal_that_cannot_draw_gets_plain_bars() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    output = Output(stream, ["a"], False, lambda: None)
    output.app("a", "hello")
    output.close()
    stream.seek(0)
    assert stream.read() == "a     | hello\n"


def test_the_last_lines_of_an_app_are_kept() -> None:
    output = Output(io.StringIO(), ["a"], False, lambda: None)
    for number in range(50):
        output.app("a", str(number))
    output.close()
    assert output.tail("a") == [str(number) for number in range(38, 50)]
