"""Logging of the servers: one line a record on stderr, for people or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def configure(level: str, form: str) -> None:
    """`form`: `json`, `text`, or "" for text on a terminal and JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    as_text = form == "text" or (not form and sys.stderr.isatty())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s") if as_text else _Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # pika says everything that happens to a connection at ERROR; our adapter says it once, in words.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
