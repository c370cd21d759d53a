"""Traces: as files, and as they are made."""

from pathlib import Path

import pytest

from meshq.core.scaling_values import ScalingPolicy
from meshq.simulate import kinds
from meshq.simulate.traces import BadTrace, Failing, Outage, Slow, Span, Trace, parse, read, write

GOOD = """\
# name: orders-monday
# note: recorded on a quiet day
# lasts: 600
# slots: 4
# wait: 5s
# max: 30
# outage: 100-160 missing
# outage: 200-260
at,service
0.5,0.25
1,2
"""


def test_a_file_says_what_it_says() -> None:
    found = parse(GOOD.splitlines(), "file", "file.csv")
    assert found == Trace(
        "orders-monday", ((0.5, 0.25), (1.0, 2.0)), 600.0, slots=4, policy=ScalingPolicy(wait=5.0, max=30),
        outages=(Outage(Span(100, 160), missing=True), Outage(Span(200, 260))),
    )  # fmt: skip
    assert found.work == 2.25
    assert found.service == 1.125


def test_a_file_without_keys_is_named_as_the_file_and_lasts_a_minute_longer() -> None:
    found = parse(["at,service", "3,1"], "monday", "monday.csv")
    assert (found.name, found.lasts, found.policy) == ("monday", 63.0, ScalingPolicy())


def test_what_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    whole = Trace(
        "all", ((0.1234, 0.12345), (2.0, 3.0)), 500.0, slots=3, replicas=2, startup=7.0, grace=90.0, steps=(10.0, 20.0),
        policy=ScalingPolicy(wait=1.5, quantile=0.9, min=1, max=9, lead=20.0, idle=30.0),
        outages=(Outage(Span(1, 2)), Outage(Span(3, 4), missing=True)),
        slow=(Slow(Span(5, 6), 4.0),), failing=(Failing(Span(7, 8), 0.5),),
    )  # fmt: skip
    for trace in (whole, kinds.made("long-jobs", 1), Trace("none", (), 60.0)):
        file = tmp_path / f"{trace.name}.csv"
        write(trace, file)
        assert read(file) == trace


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("at,service\n1,x\n", 2, "'x' is not a number of seconds"),
        ("at,service\n1,-1\n", 2, "'-1' is not a number of seconds"),
        ("at,service\n1,nan\n", 2, "'nan' is not a number of seconds"),
        ("at,service\n1\n", 2, "1 columns, not 2"),
        ("at,service\n2,1\n1,1\n", 3, "1 comes before 2 of the line above"),
        ("time,work\n1,1\n", 1, "is not the heading 'at,service'"),
        ("# slots: 2\n", 1, "the heading 'at,service' is missing"),
        ("", 0, "the heading 'at,service' is missing"),
        ("# slot: 2\nat,service\n", 1, "'slot' is not known here; known are name, lasts, slots"),
        ("# slots: 0\nat,service\n", 1, "'0' is below 1"),
        ("# slots: many\nat,service\n", 1, "'many' is not a whole number"),
        ("# wait: 5\nat,service\n", 1, "wait: '5' is not a duration such as"),
        ("# wait: 0s\nat,service\n", 1, "cannot be met"),
        ("# min: 9\n# max: 3\nat,service\n", 3, "9 is above max"),
        ("# lasts: 5\nat,service\n9,1\n", 3, "lasts 5 s, but its last message comes at 9"),
        ("# outage: 9\nat,service\n", 1, "'9' is not a span"),
        ("# outage: 9-3\nat,service\n", 1, "'9-3' ends before it begins"),
        ("# outage: 3-9 gone\nat,service\n", 1, "'gone' is not `missing`"),
        ("# slow: 3-9\nat,service\n", 1, "'' is not a number of seconds"),
        ("# failing: 3-9 1.5\nat,service\n", 1, "'1.5' is not a number above 0 and below 1"),
        ("# name: ../up\nat,service\n", 1, "'../up' is not a name"),
        ("at,service\n# slots: 2\n", 2, "is not a line `# key: value` above the heading"),
        ("# slots\nat,service\n", 1, "is not a line `# key: value` above the heading"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(BadTrace) as caught:
        parse(text.splitlines(), "t", "t.csv")
    assert str(caught.value).startswith(f"t.csv, line {line}: ")
    assert says in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="cannot be read: No such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(BadTrace, match="not a text file in UTF-8"):
        read(tmp_path / "picture.csv")


# --- made -----------------------------------------------------------------------------------------------------------------------

MADE = {trace.name: trace for trace in (*kinds.training(), *kinds.held_out())}


def test_there_are_enough_of_every_kind_and_no_trace_is_in_both_sets() -> None:
    training, held_out = kinds.training(), kinds.held_out()
    assert len(training) >= 12
    assert len(held_out) >= 20
    assert len(MADE) == len(training) + len(held_out)
    assert {name.rpartition("-")[0] for name in MADE} == set(kinds.KINDS)
    arrivals = [trace.arrivals for trace in MADE.values()]
    assert len(set(arrivals)) == len(arrivals)


@pytest.mark.parametrize("name", MADE)
def test_made_traces_are_whole_and_the_same_each_time(name: str) -> None:
    trace = MADE[name]
    kind, _, seed = name.rpartition("-")
    assert kinds.made(kind, int(seed)) == trace
    times = [at for at, _ in trace.arrivals]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= trace.lasts
    assert 5 < len(times) <= 50_000
    assert all(service > 0 for _, service in trace.arrivals)
    offered = trace.work / trace.slots / trace.lasts
    assert offered < trace.policy.max, "it can be done"
    assert trace.replicas <= trace.policy.max


def test_kinds_are_what_they_are_called() -> None:
    step = MADE["step-1"]
    before = sum(at < step.steps[0] for at, _ in step.arrivals) / step.steps[0]
    after = sum(step.steps[0] <= at < step.steps[0] + 200 for at, _ in step.arrivals) / 200
    assert after / before == pytest.approx(10, rel=0.2)
    assert MADE["long-jobs-1"].service > 45
    assert MADE["long-jobs-1"].slots == 1
    assert MADE["slow-downstream-1"].slow[0].factor == 4
    assert MADE["errors-1"].failing
    assert all(outage.span.ends - outage.span.begins == 60 for outage in MADE["outage-1"].outages)
    assert len(MADE["sparse-1"].arrivals) < 60
