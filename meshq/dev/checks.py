"""What the machine says to a plan: are the directories and programs there, are the ports free, and who has them."""

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from meshq.dev.meshfile import App, Fault, place
from meshq.dev.plan import Plan, Unit

SHELL = "/bin/sh"
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_BACKLOG = 1
SHOWN = 6
"""Ports that one sentence names."""


class _Port(NamedTuple):
    host: str
    number: int
    whose: str
    setting: str
    """What moves it."""


def free_port(preferred: int, taken: frozenset[int]) -> int:
    """plan.FreePort on this machine."""
    if preferred not in taken and preferred <= 65535 and _can_listen("127.0.0.1", preferred):
        return preferred
    while True:
        with closing(socket.create_server(("127.0.0.1", 0))) as trial:
            port: int = trial.getsockname()[1]
        if port not in taken:
            return port


def missing(plan: Plan) -> list[Fault]:
    """Directories and programs that are not there."""
    apps = {unit.index: unit.app for unit in plan.units}
    faults: list[Fault] = []
    for index, unit in {unit.index: unit for unit in plan.units}.items():
        if not unit.directory.is_dir():
            faults.append(Fault(_place(apps, index, "directory"), f"{unit.directory} is not a directory"))
        elif (program := first_word(unit.app.command)) and not _findable(program, unit):
            faults.append(
                Fault(_place(apps, index, "command"), f"{program!r} is not found: is it installed, and in PATH?")
            )
    return faults


def taken_ports(plan: Plan) -> list[str]:
    """A sentence for each process that listens on ports of the plan: which ones, and what to do about it."""
    return _sentences(_ports(plan))


def taken_ports_of(unit: Unit) -> list[str]:
    """As taken_ports, of the ports of one replica."""
    return _sentences(_unit_ports(unit))


def _sentences(wanted: Iterable[_Port]) -> list[str]:
    by_holder: dict[str, list[_Port]] = {}
    for port in wanted:
        if not _can_listen(port.host, port.number):
            by_holder.setdefault(_holder(port.number), []).append(port)
    return [_taken(holder, ports) for holder, ports in by_holder.items()]


def _taken(holder: str, ports: list[_Port]) -> str:
    shown = ", ".join(f"{port.number} ({port.whose})" for port in ports[:SHOWN])
    more = f" and {len(ports) - SHOWN} more" if len(ports) > SHOWN else ""
    what = f"port{'s' if len(ports) > 1 else ''} {shown}{more} {'are' if len(ports) > 1 else 'is'} taken"
    ways = ", ".join(dict.fromkeys(port.setting for port in ports))
    return f"{what} by {holder or 'another process'}: stop that, or change {ways}"


def command_line(command: str) -> str:
    """`command` for the shell, so that a plain one replaces the shell: its signals and its exit code are then its own."""
    program = first_word(command)
    plain = program and not re.search(r"[;&|<>()\n`]", command) and command.lstrip().startswith(program)
    return f"exec {command.lstrip()}" if plain and shutil.which(program) else command


def first_word(command: str) -> str:
    """The program that a command starts; "" where only the shell can tell."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    while words and (_ASSIGNMENT.match(words[0]) or words[0] == "exec"):
        words.pop(0)
    return words[0] if words and not re.search(r"[$`()&;|<>{}*?\[\]]", words[0]) else ""


def _findable(program: str, unit: Unit) -> bool:
    asked = subprocess.run(
        [SHELL, "-c", 'command -v -- "$1"', SHELL, program],
        cwd=unit.directory,
        env=dict(unit.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return asked.returncode == 0


def _place(apps: dict[int, App], index: int, key: str) -> str:
    return place(tuple(apps[i] for i in sorted(apps)), index, key)


# --- ports ------------------------------------------------------------------------------------------------------------------


def _ports(plan: Plan) -> Iterator[_Port]:
    if plan.control_port:
        yield _Port("127.0.0.1", plan.control_port, "the control API", "--control-port")
    for unit in plan.units:
        yield from _unit_ports(unit)


def _unit_ports(unit: Unit) -> Iterator[_Port]:
    service = unit.app.service
    yield _Port("127.0.0.1", unit.sidecar_port, f"the sidecar of {unit.label}", f"sidecarPort of {service}")
    yield _Port("0.0.0.0", unit.admin_port, f"its admin port, {unit.label}", f"sidecarPort of {service}")
    yield _Port("127.0.0.1", unit.dns_port, f"its mesh DNS, {unit.label}", f"sidecarPort of {service}")
    for port in unit.intercept:
        yield _Port("127.0.0.1", port, f"intercepted for {unit.label}", f"intercept of {service}")
    if unit.port is not None:
        yield _Port("127.0.0.1", unit.port, f"the app {unit.label}", f"port of {service}")


def _can_listen(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
            trial.listen(_BACKLOG)
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """`python3 (process 4711)`, as far as /proc tells; "" where it does not."""
    inodes = {
        fields[9]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in _rows(Path(table))
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    }
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if not wanted:
        return ""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                if any(os.readlink(fd) in wanted for fd in (process / "fd").iterdir()):
                    return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
