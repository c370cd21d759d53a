"""`meshq scale simulate`: traces replayed through meshq's scaling rule and through others'."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshq.cli.exits import FAILED, leave
from meshq.cli.show import AsFormat, Format

if TYPE_CHECKING:
    from meshq.simulate.choices import Choice
    from meshq.simulate.traces import Trace

_HELD_OUT = "Traces that no rule's values were tuned on: {rule}."
_TRAINING = "Traces that rules are tuned on: {rule}."


def simulate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="TRACE", help="CSV files; else the held-out traces that are made here."),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="P", help="wait=10s,max=60: what is wanted, instead of what traces say.")
    ] = None,
    against: Annotated[
        str, typer.Option(metavar="RULES", help="Of keda-depth, keda-rate, aws, hpa, meshq-hpa.")
    ] = "keda-depth,keda-rate,aws,hpa",
    training: Annotated[bool, typer.Option("--training", help="The training traces instead, to tune with.")] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Search the baseline's values again, and say whether they are others.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of start-up times, failures and the phases of polls.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write report.json, report.md, pictures and index.html there.")
    ] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Replay traces through meshq's scaling rule and others.

    The same traces and seed give the same report. Exits with 1 if --search finds another baseline than the one that is kept.
    """
    if search:
        if files or training or policy:
            raise typer.BadParameter("it uses the training traces, as they are", param_hint="--search")
        _search(out, output)
        return
    from meshq.simulate import kinds

    if files and training:
        raise typer.BadParameter("give either files or --training", param_hint="--training")
    if files:
        traces, about = _read(files), f"Traces: {', '.join(file.name for file in files)}."
    elif training:
        traces, about = kinds.training(), _TRAINING.format(rule=kinds.RULE)
    else:
        traces, about = kinds.held_out(), _HELD_OUT.format(rule=kinds.RULE)
    if policy is not None:
        traces = _with_policy(traces, policy)
        about += f" Policy: {policy}."
    _replay(traces, _choices(against), seed, about, out, output)


def _replay(
    traces: "Sequence[Trace]", choices: "Sequence[Choice]", seed: int, about: str, out: Path | None, output: Format
) -> None:
    from meshq.cli import simulate_tables, writing
    from meshq.simulate import report
    from meshq.simulate.search import baseline

    write = None if out is None else _writer()
    study = report.Study(traces, choices, baseline(), seed, about)
    found = report.outcomes(study, _progress(len(traces)))
    body = report.body_of(study, found)
    if write is not None and out is not None:
        _written(out, lambda folder: write(folder, study, found, body))
    if output is not Format.TABLE:
        writing.show(body, simulate_tables.traces, output.value)
        return
    for line in report.about_lines(body):
        typer.echo(line)
    for table in (simulate_tables.traces, simulate_tables.verdict):
        typer.echo()
        writing.show(body, table, output.value)


def _search(out: Path | None, output: Format) -> None:
    from meshq.cli import simulate_tables, writing
    from meshq.simulate import kinds, search

    traces = kinds.training()
    body = search.as_body(search.search(traces, search.all_choices(), _progress(len(traces))))
    if out is not None:
        _written(out, lambda folder: (folder / search.FILE).write_text(search.text_of(body), "utf-8"))
    writing.show(body, simulate_tables.search, output.value)
    if body != search.fixed():
        kept = search.fixed()["baseline"]
        leave(FAILED, f"this differs from what is kept, where the baseline is {kept['controller']} {kept['values']}")
    typer.echo("meshq: this is what is kept", err=True)


def _progress(count: int) -> Callable[[str], None]:
    done = 0

    def say(sentence: str) -> None:
        nonlocal done
        done += 1
        typer.echo(f"{done} of {count}: {sentence}", err=True)

    return say


def _writer() -> Callable[..., None]:
    try:
        from meshq.simulate import folder
    except ModuleNotFoundError as error:
        leave(FAILED, f"--out draws pictures, for which {error.name} is missing: pip install 'meshq[plots]'")
    return folder.write


def _written(folder: Path, write: Callable[[Path], object]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
    except OSError as error:
        leave(FAILED, f"{error.filename or folder} cannot be written: {error.strerror}")


def _read(files: Sequence[Path]) -> "list[Trace]":
    from meshq.simulate.traces import BadTrace, read

    try:
        traces = [read(file) for file in files]
    except BadTrace as error:
        raise typer.BadParameter(str(error), param_hint="TRACE") from error
    names = [trace.name for trace in traces]
    for name in names:
        if names.count(name) > 1:
            raise typer.BadParameter(f"two traces are named {name}: give one another `# name:`", param_hint="TRACE")
    return traces


def _with_policy(traces: "Sequence[Trace]", text: str) -> "list[Trace]":
    from meshq.core.policy_fields import BadPolicy
    from meshq.core.scaling_policy import read_policy

    given: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals:
            raise typer.BadParameter(f"{part!r} is not such as wait=10s", param_hint="--policy")
        given[key] = value
    try:
        return [replace(trace, policy=read_policy(given, trace.policy)) for trace in traces]
    except BadPolicy as error:
        raise typer.BadParameter(str(error), param_hint="--policy") from error


def _choices(against: str) -> "list[Choice]":
    """meshq, the baseline, and the others that are asked for, each with its best values."""
    from meshq.simulate.choices import AGAINST, OURS, OURS_THROUGH_HPA, choice
    from meshq.simulate.search import baseline, best_of

    names = [name.strip() for name in against.split(",")]
    for name in names:
        if name not in (*AGAINST, OURS_THROUGH_HPA):
            known = ", ".join((*AGAINST, OURS_THROUGH_HPA))
            raise typer.BadParameter(f"{name!r} is no rule; known are {known}", param_hint="--against")
    others = [choice(name) if name == OURS_THROUGH_HPA else best_of(name) for name in dict.fromkeys(names)]
    return list(dict.fromkeys([choice(OURS), baseline(), *others]))
