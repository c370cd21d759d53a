"""Exit codes (INTERFACE part 9), and the way out with a sentence."""

from typing import NoReturn

import typer

GOOD = 0
FAILED = 1
WRONG_USAGE = 2
BAD_SETTINGS = 64
UNREACHABLE = 69


def leave(code: int, *sentences: str) -> NoReturn:
    for sentence in sentences:
        typer.echo(f"meshq: {sentence}", err=True)
    raise typer.Exit(code)
