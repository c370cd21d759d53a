"""A report in a folder: report.json, report.md, a picture of each trace, and index.html."""

import json
from pathlib import Path
from typing import Any

from meshq.simulate import page, plots, report
from meshq.simulate.report import Outcomes, Study


def write(folder: Path, study: Study, found: Outcomes, body: dict[str, Any]) -> None:
    """What is there under these names is overwritten. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", "utf-8")
    (folder / "report.md").write_text(report.as_markdown(body), "utf-8")
    pictures = {}
    for trace, outcomes in zip(study.traces, found, strict=True):
        pictures[trace.name] = plots.png(trace, outcomes)
        (folder / f"{trace.name}.png").write_bytes(pictures[trace.name])
    (folder / "index.html").write_text(page.html(body, pictures), "utf-8")
