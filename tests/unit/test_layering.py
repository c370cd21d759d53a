"""The arrows of DESIGN part 2 hold: imports point down, and each outside library has one owner.

The tables say which module may import what. A new module that fits no row is a program: it may use core, the ports and
the shared parts, and gets its adapters handed in.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "meshq", ROOT / "sidecar" / "meshq_sidecar")

CORE_MAY = {
    *(
        "__future__",
        "abc",
        "collections",
        "collections.abc",
        "contextlib",
        "copy",
        "dataclasses",
        "enum",
        "types",
        "typing",
    ),
    *(
        "bisect",
        "datetime",
        "difflib",
        "fractions",
        "functools",
        "heapq",
        "ipaddress",
        "itertools",
        "math",
        "operator",
        "re",
        "string",
    ),
    *("base64", "binascii", "hashlib", "hmac", "json", "msgpack", "struct", "urllib.parse", "email.utils", "zlib"),
}
"""All that core may import besides itself. Nothing here reads a clock, draws a random number, waits or does I/O."""

OWNERS = {
    "pika": "meshq.adapters.amqp",
    "redis": "meshq.adapters.redis",
    "sqlite3": "meshq.adapters.store",
    "httptools": "meshq.adapters.http",
    "prometheus_client": "meshq.adapters.metrics",
    "dnslib": "meshq.adapters.dns",
    "grpc": "meshq.adapters.keda",
    "google.protobuf": "meshq.adapters.keda",
    "kubernetes": "meshq.adapters.kubernetes",
    "matplotlib": "meshq.simulate.plots",
    "h11": "meshq.sdk.http",
}
"""The adapter (of the SDK, the part) that owns a library: this module and those whose names go on with an underscore."""

SHARED = (
    "meshq.ports",
    "meshq.settings",
    "meshq.tasks",
    "meshq.logs",
    "meshq.randomness",
    "meshq.calling",
    "meshq.sending",
    "meshq.linking",
    "meshq.waking",
)
"""What every program builds on, besides core. Files whose names go on with an underscore belong to the same part."""
ADAPTERS_MAY = ("meshq.core", "meshq.ports", "meshq.tasks")
SHARED_MAY = ("meshq.core", "meshq.ports", "meshq.tasks", "meshq.randomness")

ADAPTER_MAY_USE = {"keda": {"tls"}, "embedded": {"store"}, "rabbit": {"amqp"}, "store": {"lock"}, "spool": {"lock"}}
"""An adapter that is built on another: the embedded broker keeps its queues in the store, the statistics of RabbitMQ read
the broker's URL as the AMQP adapter does, the store and the spool lock their files in the same way."""
CHOOSER = "meshq.adapters.choose"
"""From URLs to adapters; for the composition roots."""

ROOTS = ("app", "runner", "program", "__main__")
"""Module names of composition roots: they put a program together, so they may import everything below."""
ROOT_PACKAGES = ("meshq.cli", "meshq.dev", "meshq.testing")
"""`meshq dev` puts several programs together in one process; `meshq.testing` sidecars and apps in one test."""

PROGRAMS = (
    "meshq_sidecar.outbound",
    "meshq_sidecar.inbound",
    "meshq_sidecar.membership",
    "meshq.control",
    "meshq.dev",
    "meshq.gateway",
    "meshq.kube",
    "meshq.sdk",
    "meshq.signals",
    "meshq.simulate",
)


class Import(NamedTuple):
    importer: str
    imported: str
    place: str
    """File and line, for the message."""


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def ours(module: str) -> bool:
    return within(module, "meshq", "meshq_sidecar")


def is_root(module: str) -> bool:
    return module.rpartition(".")[2] in ROOTS or within(module, *ROOT_PACKAGES)


def family(adapter: str) -> str:
    """`meshq.adapters.amqp_frames` -> `amqp`: files that are one adapter share the first word of their names."""
    return adapter.split(".")[2].partition("_")[0]


def may_import(importer: str, imported: str) -> bool:
    """The arrows between our own modules."""
    if imported == "meshq" or is_root(importer):  # `meshq` itself holds only the version
        return True
    if within(importer, "meshq.core"):
        return within(imported, "meshq.core")
    if shared := _shared(importer):
        return within(imported, *SHARED_MAY) or _shared(imported) == shared
    if within(importer, "meshq.adapters"):
        return _adapter_may_import(importer, imported)
    if within(imported, "meshq.core") or _shared(imported):
        return True
    return not within(imported, "meshq.adapters") and not is_root(imported) and not _other_program(importer, imported)


def _shared(module: str) -> str | None:
    return next((part for part in SHARED if within(module, part) or module.startswith(part + "_")), None)


def _adapter_may_import(importer: str, imported: str) -> bool:
    if importer == CHOOSER or not within(imported, "meshq.adapters") or imported == "meshq.adapters":
        return within(imported, "meshq.adapters", *ADAPTERS_MAY)
    return family(imported) in {family(importer), *ADAPTER_MAY_USE.get(family(importer), ())}


def _other_program(importer: str, imported: str) -> bool:
    program, other = _program(importer), _program(imported)
    return program is not None and other is not None and program != other


def _program(module: str) -> str | None:
    return next((program for program in PROGRAMS if within(module, program)), None)


# --- reading the sources ----------------------------------------------------------------------------------------------------


def module_name(file: Path) -> str:
    base = ROOT / "sidecar" if file.is_relative_to(ROOT / "sidecar") else ROOT
    return ".".join(file.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(file): file for source in SOURCES for file in sorted(source.rglob("*.py"))}


def imports_of(module: str, text: str, place: str) -> Iterator[Import]:
    """Every import, inside functions too. `from package import name` counts as the module `package.name` where it is one."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place}:{node.lineno}: imports are written in full here"
            source = str(node.module)
            names = [f"{source}.{a.name}" if f"{source}.{a.name}" in FILES else source for a in node.names]
        else:
            continue
        yield from (Import(module, name, f"{place}:{node.lineno}") for name in dict.fromkeys(names))


IMPORTS = [
    found
    for module, file in FILES.items()
    for found in imports_of(module, file.read_text(), str(file.relative_to(ROOT)))
]


def report(broken: list[Import], rule: str) -> str:
    return f"{rule}:\n" + "\n".join(f"  {found.place} imports {found.imported}" for found in broken)


# --- the rules --------------------------------------------------------------------------------------------------------------


def test_imports_point_down() -> None:
    broken = [i for i in IMPORTS if ours(i.imported) and not may_import(i.importer, i.imported)]
    assert not broken, report(broken, "imports must point down (the picture in DESIGN part 2)")


def test_core_only_decides() -> None:
    core = [i for i in IMPORTS if within(i.importer, "meshq.core") and not ours(i.imported)]
    assert core, "there is no core: is the path right?"
    broken = [i for i in core if i.imported not in CORE_MAY]
    assert not broken, report(
        broken, "core does no I/O, reads no clock, draws no random numbers; take it as an argument"
    )


def test_core_reads_no_clock() -> None:
    clocks = {"now", "utcnow", "today"}
    found = [
        f"  {FILES[module].relative_to(ROOT)}:{node.lineno} calls {node.func.attr}()"
        for module in FILES
        if within(module, "meshq.core")
        for node in ast.walk(ast.parse(FILES[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in clocks
    ]
    assert not found, "core takes the time as an argument:\n" + "\n".join(found)


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_one_owner(library: str) -> None:
    owner = OWNERS[library]
    users = [i for i in IMPORTS if within(i.imported, library)]
    assert users, f"nothing imports {library}: is {owner} gone?"
    broken = [i for i in users if i.importer != owner and not i.importer.startswith(owner + "_")]
    assert not broken, report(broken, f"only {owner} may use {library}")


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("meshq.core.routing", "meshq.core.names", True),
        ("meshq.core.routing", "meshq.ports", False),
        ("meshq.ports", "meshq.core.http", True),
        ("meshq.ports", "meshq.adapters.amqp", False),
        ("meshq.calling", "meshq.adapters.amqp", False),
        ("meshq.sending", "meshq.sending_handover", True),
        ("meshq.sending", "meshq.calling", False),
        ("meshq.settings", "meshq.settings_rules", True),
        ("meshq.settings", "meshq.calling", False),
        ("meshq.adapters.amqp", "meshq.adapters.amqp_frames", True),
        ("meshq.adapters.amqp", "meshq.adapters.redis", False),
        ("meshq.adapters.embedded_broker", "meshq.adapters.store", True),
        ("meshq.adapters.amqp", "meshq_sidecar.inbound", False),
        ("meshq_sidecar.inbound", "meshq_sidecar.foreign", True),
        ("meshq_sidecar.inbound", "meshq_sidecar.outbound", False),
        ("meshq_sidecar.inbound", "meshq.adapters.amqp", False),
        ("meshq_sidecar.inbound", "meshq_sidecar.app", False),
        ("meshq_sidecar.app", "meshq.adapters.http_server", True),
        ("meshq.control.api", "meshq.gateway.edge", False),
        ("meshq.control.api", "meshq.calling", True),
        ("meshq.cli.call", "meshq.control.app", True),
    ],
)
def test_the_arrows(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed


def test_imports_are_found_wherever_they_are_written() -> None:
    text = "import os.path\ndef f():\n    from meshq.core import names, errors\n    from meshq.ports import Broker\n"
    found = [i.imported for i in imports_of("x", text, "x.py")]
    assert found == ["os.path", "meshq.core.names", "meshq.core.errors", "meshq.ports"]
