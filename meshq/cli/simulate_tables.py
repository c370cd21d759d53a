"""What `meshq scale simulate` found, as tables: pure."""

from typing import Any

from meshq.cli.tables import UNKNOWN, Cell, Table
from meshq.simulate import report


def traces(body: dict[str, Any]) -> Table:
    """Percent of messages over the target for each rule; then meshq's pod-seconds in parts of the baseline's, and both's reversals."""
    names = [each["controller"] for each in body["controllers"]]
    headings = (
        "TRACE",
        "TARGET",
        *(f"{name.upper()} %" for name in names),
        "PODS",
        "TURNS/H",
        "ITS",
        "KILLED",
        "LOSES ON",
    )
    rows = [_row(body, names, row) for row in body["traces"]]
    return Table(headings, rows, "no traces", frozenset(range(1, len(headings) - 1)))


def _row(body: dict[str, Any], names: list[str], row: dict[str, Any]) -> tuple[Cell, ...]:
    runs = row["runs"]
    ours, theirs = runs[names[0]], runs[body["baseline"]["controller"]]
    return (
        Cell(row["trace"]),
        Cell(f"{row['wait']:g}s"),
        *(Cell(f"{runs[name]['missed']:.2f}") for name in names),
        Cell(report.pods(ours, theirs["podSeconds"])),
        Cell(f"{ours['reversals']:.1f}"),
        Cell(f"{theirs['reversals']:.1f}"),
        Cell(str(ours["killed"]), "red" if ours["killed"] else ""),
        Cell(", ".join(row["losesOn"]), "red"),
    )


def verdict(body: dict[str, Any]) -> Table:
    rows = [
        (Cell("yes", "green") if each["met"] else Cell("no", "red"), Cell(each["target"]), Cell(each["found"]))
        for each in body["verdict"]
    ]
    return Table(("MET", "TO REACH", "FOUND"), rows, "no verdict")


def search(body: dict[str, Any]) -> Table:
    rows = [
        (Cell(report.shown(row)), *(Cell(f"{row[key]:.2f}") for key in ("score", "missed", "doublings")))
        for row in body["rows"]
    ]
    return Table(("BASELINE", "SCORE", "MISSED %", "DOUBLINGS"), rows, UNKNOWN, frozenset({1, 2, 3}))
