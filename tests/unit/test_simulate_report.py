"""Reports of simulations: the same for the same, with losses shown, and what the command prints and writes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

import meshq.simulate
from meshq.cli.simulate import simulate
from meshq.core.scaling_values import ScalingPolicy
from meshq.simulate import kinds, report, search
from meshq.simulate.choices import AGAINST, OURS, choice
from meshq.simulate.report import Study
from meshq.simulate.traces import Trace, write
from meshq.simulate.verdicts import Pair, losses, verdict

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command("simulate")(simulate)


@APP.callback()
def _several() -> None:
    """So that the command keeps its name."""


def small(name: str = "small", rate: int = 2) -> Trace:
    """Five minutes, with three times as much in the third of them."""
    times = [at / rate / (3 if 120 <= at / rate < 180 else 1) for at in range(rate * 300)]
    messages = tuple((at, 0.6) for at in sorted(times))
    return Trace(name, messages, 320.0, slots=2, replicas=1, policy=ScalingPolicy(wait=5.0, max=10))


def study(*traces: Trace, seed: int = 0) -> Study:
    choices = [choice(OURS), *(search.best_of(name) for name in AGAINST)]
    return Study(traces, choices, search.baseline(), seed, "Small ones.")


def body(*traces: Trace, seed: int = 0) -> dict[str, Any]:
    of = study(*traces, seed=seed)
    return report.body_of(of, report.outcomes(of))


# --- bodies ---------------------------------------------------------------------------------------------------------------------


def test_a_report_is_the_same_for_the_same_traces_and_seed_in_one_process_or_several() -> None:
    traces = [small(f"t-{number}", 1 + number % 2) for number in range(4)]
    together = json.dumps(body(*traces), sort_keys=True)
    assert json.dumps(body(*traces), sort_keys=True) == together
    alone = [body(trace)["traces"][0] for trace in traces]
    assert json.loads(together)["traces"] == alone
    assert json.dumps(body(*traces, seed=1), sort_keys=True) != together


def test_every_rule_runs_on_every_trace() -> None:
    found = body(small(), small("more", 5))
    assert [row["trace"] for row in found["traces"]] == ["small", "more"]
    for row in found["traces"]:
        assert list(row["runs"]) == [OURS, *AGAINST]
        for figures in row["runs"].values():
            assert list(figures) == list(report.FIGURES)
            assert figures["overBound"] >= 1


def figures(missed: float = 0.0, pods: int = 100, reversals: float = 0.0, killed: int = 0) -> dict[str, Any]:
    return {"missed": missed, "podSeconds": pods, "reversals": reversals, "killed": killed}


@pytest.mark.parametrize(
    ("ours", "baseline", "lost"),
    [
        (figures(), figures(), []),
        (figures(missed=1.7, pods=115, reversals=16), figures(missed=1.0, reversals=10), ["misses"]),
        (figures(missed=1.71), figures(missed=1.0), ["misses far"]),
        (figures(missed=0.5), figures(), ["misses"]),
        (figures(missed=0.51), figures(), ["misses far"]),
        (figures(pods=116), figures(), ["pods"]),
        (figures(reversals=4.1), figures(), ["reversals"]),
        (figures(killed=1), figures(killed=9), ["kills"]),
    ],
)
def test_where_meshq_loses(ours: dict[str, Any], baseline: dict[str, Any], lost: list[str]) -> None:
    assert losses(Pair("t", ours, baseline)) == lost


def test_the_verdict_wants_four_of_five_not_above_and_everything_else_on_every_trace() -> None:
    equal = Pair("equal", figures(missed=1), figures(missed=1))
    above = Pair("above", figures(missed=1.1), figures(missed=1))
    assert [each["met"] for each in verdict([equal] * 4 + [above])] == [True] * 5
    assert [each["met"] for each in verdict([equal] * 3 + [above])] == [False, True, True, True, True]
    far = Pair("far", figures(missed=9, pods=200, reversals=99, killed=3), figures(missed=1))
    found = verdict([equal] * 9 + [far])
    assert [each["met"] for each in found] == [True, False, False, False, False]
    assert found[1]["found"] == "worst far: 9.00 % against 1.00 %; beyond on 1 of 10"
    assert found[2]["found"] == "median 1.00 times, worst far: 2.00 times; beyond on 1 of 10"
    assert verdict([]) == []


def test_rows_where_meshq_loses_are_marked_in_markdown() -> None:
    found = body(small())
    found["traces"][0]["losesOn"] = ["misses far", "pods"]
    lines = report.as_markdown(found).splitlines()
    row = next(line for line in lines if line.startswith("| small "))
    assert row.endswith("| misses far, pods |")
    assert row.count("·") == 3 * 5


# --- the baseline ---------------------------------------------------------------------------------------------------------------


def test_the_kept_baseline_is_the_best_of_what_is_kept_with_it() -> None:
    kept = search.fixed()
    best = min(kept["rows"], key=lambda row: row["score"])
    assert {"controller": best["controller"], "values": best["values"]} == kept["baseline"]
    assert set(kept["best"]) == set(AGAINST)
    assert kept["split"] == kinds.RULE
    grid = json.loads(json.dumps(search.GRID))
    assert kept["grid"] == grid
    for row in kept["rows"]:
        assert all(value in grid[row["controller"]][key] for key, value in row["values"].items())


def test_a_search_finds_the_cheaper_rule_and_its_file_is_read_as_it_was() -> None:
    told = []
    choices = [each for each in search.all_choices() if dict(each.values).get("window", 300) == 300]
    rows = search.search([small(), small("more", 4)], choices, told.append)
    assert len(told) == 2
    assert [row.score() for row in rows] == sorted(row.score() for row in rows)
    found = search.as_body(rows)
    assert json.loads(search.text_of(found)) == found
    assert found["rows"][0]["score"] == round(rows[0].missed + 10 * rows[0].doublings, 3)


# --- the command ----------------------------------------------------------------------------------------------------------------


def ran(*arguments: str) -> Any:
    result = CliRunner().invoke(APP, ["simulate", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def file(tmp_path: Path) -> str:
    write(small(), tmp_path / "small.csv")
    return str(tmp_path / "small.csv")


def test_a_table_with_the_verdict(file: str) -> None:
    result = ran(file)
    assert result.exit_code == 0
    assert re.search(r"^TRACE +TARGET +MESHQ % ", result.stdout, re.MULTILINE)
    assert re.search(r"^small +5s ", result.stdout, re.MULTILINE)
    assert len(re.findall(r"^(?:yes|no) ", result.stdout, re.MULTILINE)) == 5
    assert "Baseline: keda-rate (" in result.stdout
    assert "1 of 1: small: 5 runs" in result.stderr


def test_json_and_yaml_say_the_same(file: str) -> None:
    found = json.loads(ran(file, "-o", "json", "--against", "meshq-hpa").stdout)
    assert YAML(typ="safe").load(ran(file, "-o", "yaml", "--against", "meshq-hpa").stdout) == found
    assert list(found["traces"][0]["runs"]) == ["meshq", search.baseline().name, "meshq-hpa"]


def test_a_policy_overrules_the_trace(file: str) -> None:
    found = json.loads(ran(file, "-o", "json", "--policy", "wait=60s,max=2").stdout)
    row = found["traces"][0]
    assert (row["wait"], row["max"]) == (60.0, 2)
    assert all(run["missed"] == 0 for run in row["runs"].values())


def test_a_folder_is_written_the_same_twice(file: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert ran(file, "--out", str(tmp_path / name)).exit_code == 0
    first, second = (
        {each.name: each.read_bytes() for each in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert set(first) == {"report.json", "report.md", "small.png", "index.html"}
    assert first == second
    assert first["small.png"].startswith(b"\x89PNG")
    page = first["index.html"].decode()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|<script|@import|url\(""", page)
    assert "small" in page
    assert json.loads(first["report.json"])["traces"][0]["trace"] == "small"


def test_a_search_says_whether_it_found_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [each for each in search.all_choices() if 300 in dict(each.values).values()]
    monkeypatch.setattr(search, "all_choices", lambda: few)
    monkeypatch.setattr(kinds, "training", lambda: [small()])
    result = ran("--search", "-o", "json", "--out", str(tmp_path / "found"))
    assert result.exit_code == 1
    assert "this differs from what is kept" in result.stderr
    found = json.loads(result.stdout)
    assert json.loads((tmp_path / "found" / "baseline.json").read_text()) == found
    monkeypatch.setattr(search, "fixed", lambda: found)
    result = ran("--search")
    assert result.exit_code == 0
    assert "this is what is kept" in result.stderr
    assert re.search(r"^BASELINE +SCORE ", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--against", "magic"], "'magic' is no rule; known are keda-depth"),
        (["--policy", "wait"], "'wait' is not such as wait=10s"),
        (["--policy", "wait=10"], "is not a duration"),
        (["--policy", "speed=10"], "speed"),
        (["--training"], "give either files or --training"),
        (["--search"], "it uses the training traces"),
    ],
)
def test_wrong_usage(file: str, arguments: list[str], says: str) -> None:
    result = ran(file, *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_bad_files(file: str, tmp_path: Path) -> None:
    result = ran(str(tmp_path / "none.csv"))
    assert result.exit_code == 2
    assert "cannot be read" in " ".join(result.stderr.split())
    result = ran(file, file)
    assert result.exit_code == 2
    assert "two traces are named small" in " ".join(result.stderr.split())


def test_a_folder_that_cannot_be_written(file: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = ran(file, "--out", str(tmp_path / "taken"))
    assert result.exit_code == 1
    assert "taken cannot be written: " in result.stderr


def test_pictures_need_matplotlib_and_nothing_else_does(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("folder", "plots"):
        monkeypatch.delitem(sys.modules, f"meshq.simulate.{name}", raising=False)
        monkeypatch.delattr(meshq.simulate, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = ran(file, "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "pip install 'meshq[plots]'" in result.stderr
    assert ran(file).exit_code == 0
