"""A report as one page that needs nothing else: no file, no script, nothing from a network."""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from meshq.simulate import report

STYLE = """
:root { color-scheme: light dark; --lines: #8884; --lost: #c003; --won: #0802; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--lines); padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child, .words td, .words th { text-align: left; white-space: normal; }
tr.lost { background: var(--lost); }
tr.won { background: var(--won); }
figure { margin: 2rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
"""


def html(body: dict[str, Any], pictures: Mapping[str, bytes]) -> str:
    """`pictures`: PNGs by the names of traces."""
    about = "".join(f"<p>{escape(line)}</p>\n" for line in report.about_lines(body))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scaling, simulated</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Scaling, simulated</h1>
{about}{_verdict(body)}
<h2>Traces</h2>
<p>{escape(report.IN_A_CELL)}</p>
{_traces(body)}
{"".join(_figure(name, picture) for name, picture in pictures.items())}</body>
</html>
"""


def _verdict(body: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr class="{"won" if each["met"] else "lost"}"><td>{escape(each["target"])}</td>'
        f"<td>{escape(each['found'])}</td><td>{'yes' if each['met'] else 'no'}</td></tr>\n"
        for each in body["verdict"]
    )
    heading = "<tr><th>to reach</th><th>found</th><th>met</th></tr>"
    return (
        f'<h2>meshq against the baseline</h2>\n<div class="wide"><table class="words">\n{heading}\n{rows}</table></div>'
    )


def _traces(body: dict[str, Any]) -> str:
    names = ["trace", "messages", "target", *(each["controller"] for each in body["controllers"]), "meshq loses on"]
    heading = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f'<tr class="{"lost" if row["losesOn"] else ""}">'
        + _trace_link(row["trace"])
        + "".join(f"<td>{escape(cell)}</td>" for cell in report.cells(body, row)[1:])
        + "</tr>\n"
        for row in body["traces"]
    )
    return f'<div class="wide"><table>\n<tr>{heading}</tr>\n{rows}</table></div>'


def _trace_link(name: str) -> str:
    return f'<td><a href="#{escape(name)}">{escape(name)}</a></td>'


def _figure(name: str, picture: bytes) -> str:
    source = base64.b64encode(picture).decode()
    return (
        f'<figure id="{escape(name)}"><figcaption>{escape(name)}</figcaption>'
        f'<img alt="Arrivals, messages waiting and replicas of {escape(name)}" src="data:image/png;base64,{source}"></figure>\n'
    )
