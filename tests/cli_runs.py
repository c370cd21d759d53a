"""The command line as a test of a control API runs it."""

import asyncio
import json
from typing import Any, NamedTuple

from typer.testing import CliRunner

from meshq.cli.main import app


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def meshq_at(port: int, *arguments: str, stdin: str = "") -> Ran:
    """In a thread, as the control API is in this one."""
    control = ["--control", f"http://127.0.0.1:{port}"]
    result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, *control], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)
