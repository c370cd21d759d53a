"""Running the scripts of redis_scripts/. Redis knows them by their digests; where it does not, they are sent again."""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from meshq.adapters.redis_client import Command, Link


class Script(NamedTuple):
    source: str
    digest: str


class Run(NamedTuple):
    """A script on keys that share one hash slot."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Any]


@cache
def load_script(*names: str) -> Script:
    """`redis_scripts/<name>.lua`, several one after the other."""
    folder = files(__package__) / "redis_scripts"
    source = "".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


async def evaluate(link: Link, runs: Sequence[Run]) -> list[Any]:
    """In one round trip, or two. Answers and errors are those of `Link.ask`."""
    answers = await link.ask([_command("EVALSHA", run.script.digest, run) for run in runs])
    # Redis was restarted, replaced or told to forget its scripts, or this is their first use.
    missing = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if missing:
        again = await link.ask([_command("EVAL", runs[n].script.source, runs[n]) for n in missing])
        for n, answer in zip(missing, again, strict=True):
            answers[n] = answer
    return answers


def _command(name: str, script: str, run: Run) -> Command:
    return Command(run.keys[0], (name, script, len(run.keys), *run.keys, *run.args))
