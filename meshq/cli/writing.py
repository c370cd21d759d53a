"""To the terminal or a pipe: tables as kubectl writes them, JSON, YAML; once, or again and again."""

import io
import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from meshq.cli.tables import Table

GAP = "  "

AsTable = Callable[[Any], Table]


def show(body: Any, as_table: AsTable, output: str) -> None:
    if output == "json":
        print(json.dumps(body, indent=2, ensure_ascii=False))
    elif output == "yaml":
        sys.stdout.write(as_yaml(body))
    else:
        table = as_table(body)
        if table.rows:
            _console().print(as_text(table))
        else:
            print(table.empty, file=sys.stderr)


def watch(fetch: Callable[[], Any], as_table: AsTable, output: str, wait: Callable[[], None]) -> None:
    """Until Ctrl-C. A table on a terminal stays in its place; elsewhere each document follows the last, JSON on one line."""
    try:
        if output == "table" and sys.stdout.isatty():
            with Live(console=_console(), auto_refresh=False) as live:
                while True:
                    table = as_table(fetch())
                    live.update(as_text(table) if table.rows else Text(table.empty), refresh=True)
                    wait()
        while True:
            _show_again(fetch(), as_table, output)
            sys.stdout.flush()
            wait()
    except KeyboardInterrupt:
        return


def _show_again(body: Any, as_table: AsTable, output: str) -> None:
    if output == "json":
        print(json.dumps(body, ensure_ascii=False))
        return
    if output == "yaml":
        print("---")
    show(body, as_table, output)
    if output == "table":
        print()


def as_yaml(body: Any) -> str:
    from ruamel.yaml import YAML

    writer = YAML()
    writer.default_flow_style = False
    written = io.StringIO()
    writer.dump(body, written)
    return written.getvalue()


def as_text(table: Table) -> Text:
    widths = [
        max(len(heading), *(len(row[column].text) for row in table.rows), 0)
        for column, heading in enumerate(table.headings)
    ]
    lines = [Text(GAP.join(_fit(h, widths, i, table) for i, h in enumerate(table.headings)).rstrip(), style="bold")]
    for row in table.rows:
        line = Text()
        for column, cell in enumerate(row):
            line.append(GAP if column else "")
            line.append(_fit(cell.text, widths, column, table), style=cell.style)
        line.rstrip()
        lines.append(line)
    return Text("\n").join(lines)


def _fit(text: str, widths: list[int], column: int, table: Table) -> str:
    return text.rjust(widths[column]) if column in table.right else text.ljust(widths[column])


def _console() -> Console:
    """Rows are never folded: a pipe gets each whole, and a terminal folds them by itself."""
    return Console(soft_wrap=True, highlight=False)
