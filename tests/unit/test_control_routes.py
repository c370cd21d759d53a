"""Route policies through the control API and `meshq route`."""

import asyncio
import itertools
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from meshq.cli import reach
from meshq.core.policy import WhenAbsent
from tests.control_mesh import ControlMesh, told

POLICY = {"service": "orders", "weights": {"1": 90, "2": 10}, "timeout": "10s"}


def test_a_policy_is_put_read_and_cleared() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a", "1.0.0")
        mesh.register("orders", "host-b", "2.0.0")
        assert (await mesh.ask("GET", "/v1/routes")).body == []
        missing = await mesh.ask("GET", "/v1/routes/orders")
        assert (missing.status, missing.body["detail"]) == (
            404,
            "orders has no route policy: calls that name no version go to its latest",
        )
        put = await mesh.change("PUT", "/v1/routes/orders", {"weights": {"1": 90, "2": 10}, "timeout": "10s"})
        assert (put.status, put.body, put.field("Meshq-Doubts")) == (200, POLICY, "")
        assert mesh.registry.snapshot().policies["orders"].weights == {1: 90, 2: 10}
        assert (await mesh.ask("GET", "/v1/routes/orders")).body == POLICY
        assert (await mesh.ask("GET", "/v1/routes")).body == [POLICY]
        assert (await mesh.change("DELETE", "/v1/routes/orders")).status == 204
        assert mesh.registry.snapshot().policies == {}
        assert (await mesh.change("DELETE", "/v1/routes/orders")).status == 404

    told(story)


YAML_TEXT = b"""
weights: {1: 90, 2: 10}      # numbers are majors too
deprecated: {1: {sunset: 2027-01-31, link: https://example.com/migrate}}
whenAbsent: fail
"""


@pytest.mark.parametrize(
    "kind", ["application/yaml", "text/x-yaml; charset=utf-8", "application/x-www-form-urlencoded"]
)
def test_a_policy_in_yaml(kind: str) -> None:
    async def story(mesh: ControlMesh) -> None:
        put = await mesh.ask("PUT", "/v1/routes/orders", YAML_TEXT, Meshq_Api="1", Content_Type=kind)
        assert put.status == 200
        assert put.body["deprecated"]["1"]["sunset"].startswith("2027-01-31")
        stored = mesh.registry.snapshot().policies["orders"]
        assert (stored.when_absent, stored.deprecated[1].link) == (WhenAbsent.FAIL, "https://example.com/migrate")
        again = await mesh.change("PUT", "/v1/routes/orders", put.body)
        assert again.body == put.body, "since stays what it was"

    told(story)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"{", "application/json", ["the body is not JSON"]),
        (b"a: [", "application/yaml", ["neither JSON nor YAML in line"]),
        (b"a: &x 1\nb: *x\n", "application/yaml", ["alias"]),
        (b"[1]", "application/json", ["give a map"]),
        (
            b'{"weights": {"x": 1}, "whenAbsent": "never", "bogus": 1}',
            "application/json",
            ["weights", "whenAbsent", "bogus"],
        ),
        (b'{"service": "billing"}', "application/json", ["billing"]),
        (b'{"\\ud800": 1}', "application/json", ["half of a surrogate pair"]),
        (b'{"\\ud800": 1}', "text/plain", ["half of a surrogate pair"]),
        (b'"\\ud800": 1', "application/yaml", ["half of a surrogate pair"]),
        (b"[" * 20_000, "application/yaml", ["nested more than 20 deep"]),
        (b"[" * 20_000, "application/json", ["the body is not JSON"]),
    ],
)
def test_all_that_is_wrong_is_told_at_once(body: bytes, kind: str, said: list[str]) -> None:
    async def story(mesh: ControlMesh) -> None:
        refused = await mesh.ask("PUT", "/v1/routes/orders", body, Meshq_Api="1", Content_Type=kind)
        assert (refused.status, refused.body["code"]) == (400, "bad-request")
        for each in said:
            assert each in refused.body["detail"]
        assert mesh.registry.snapshot().policies == {}

    told(story)


def test_what_no_service_can_be_called_has_no_policy() -> None:
    async def story(mesh: ControlMesh) -> None:
        assert (await mesh.change("PUT", "/v1/routes/Orders", {})).body["code"] == "bad-address"
        assert (await mesh.ask("GET", "/v1/routes/reply")).body["code"] == "bad-address"
        assert (await mesh.change("POST", "/v1/routes/orders", {})).status == 405
        assert (await mesh.ask("PUT", "/v1/routes/orders", {})).status == 403, "a web page could send that"

    told(story)


def test_versions_that_never_were_are_doubted() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a", "1.0.0")
        put = await mesh.change("PUT", "/v1/routes/orders", {"weights": {"1": 50, "7": 50}})
        assert put.status == 200
        assert "ever served v7; it has v1" in put.field("Meshq-Doubts")

    told(story)


# --- the command ------------------------------------------------------------------------------------------------------------


def test_set_merges_and_says_what_changed() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a", "1.0.0")
        mesh.register("orders", "host-b", "2.0.0")
        ran = await mesh.meshq("route", "set", "orders", "--weight", "1=90", "--weight", "2=10", "--timeout", "10s")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.splitlines() == [
            "weights: not set -> {1: 90, 2: 10}",
            "timeout: not set -> 10s",
        ]
        ran = await mesh.meshq(
            "route", "set", "orders", "--weight", "2=100", "--sticky", "X-User", "--unset", "timeout"
        )
        assert ran.out.splitlines() == [
            "weights: {1: 90, 2: 10} -> {2: 100}",
            "sticky: not set -> header:x-user",
            "timeout: 10s -> not set",
        ]
        ran = await mesh.meshq("route", "set", "orders", "--weight", "2=100")
        assert ran.out == "orders: nothing changed\n"
        ran = await mesh.meshq(
            "route", "set", "orders", "--mirror", "1=5", "--fallback", "1", "--when-absent", "fallback", "--retry", "3:1s,2s",
            "--backlog-limit", "1000", "--allow", "shop", "--allow", "gateway", "--deprecate", "1=2027-01-31", "-o", "json",
        )  # fmt: skip
        assert (ran.code, ran.err) == (0, "")
        policy = ran.json
        since = policy["deprecated"]["1"].pop("since")
        assert policy == {
            "service": "orders",
            "weights": {"2": 100},
            "sticky": "header:x-user",
            "mirror": {"to": "1", "percent": 5},
            "fallback": ["1"],
            "deprecated": {"1": {"sunset": "2027-01-31"}},
            "retry": {"attempts": 3, "delays": ["1s", "2s"]},
            "backlogLimit": 1000,
            "allow": ["gateway", "shop"],
        }
        ran = await mesh.meshq("route", "set", "orders", "--deprecate", "2", "-o", "json")
        assert ran.json["deprecated"]["1"]["since"] == since
        assert sorted(ran.json["deprecated"]) == ["1", "2"]

    told(story)


def test_a_fallback_list_is_never_silently_without_effect() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a", "1.0.0")

        def stored() -> tuple[tuple[int, ...], WhenAbsent]:
            policy = mesh.registry.snapshot().policies["orders"]
            return policy.fallback, policy.when_absent

        async def put(*options: str) -> str:
            ran = await mesh.meshq("route", "set", "orders", *options)
            assert ran.code == 0, ran.err
            return ran.err

        for before in (("--timeout", "10s"), ("--when-absent", "wait"), ("--when-absent", "fail")):
            await put(*before)
            assert await put("--fallback", "1") == ""
            assert stored() == ((1,), WhenAbsent.FALLBACK)
            assert await put("--unset", "fallback") == ""
            assert stored() == ((), WhenAbsent.WAIT)
        doubt = await put("--fallback", "1", "--when-absent", "wait")
        assert doubt == "meshq: fallback is not looked at with whenAbsent: wait\n"
        await put("--timeout", "5s")
        assert stored() == ((1,), WhenAbsent.WAIT), "what has nothing to do with it leaves it"

    told(story)


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        (("route", "show", "orders", "-o", "json"), {"service": "orders"}, POLICY),
        (("route", "show", "-o", "json"), [], [POLICY]),
    ],
)
def test_watching_shows_a_policy_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], first: object, second: object
) -> None:
    async def story(mesh: ControlMesh) -> None:
        loop, waits = asyncio.get_running_loop(), itertools.count()

        def wait(_: reach.ControlApi, __: float) -> None:
            """Between two looks: put once, and in the end Ctrl-C."""
            if next(waits):
                raise KeyboardInterrupt
            asyncio.run_coroutine_threadsafe(mesh.change("PUT", "/v1/routes/orders", POLICY), loop).result()

        monkeypatch.setattr(reach.ControlApi, "wait", wait)
        ran = await mesh.meshq(*arguments, "--watch")
        assert (ran.code, [json.loads(line) for line in ran.out.splitlines()]) == (0, [first, second])

    told(story)


def test_what_show_prints_set_takes(tmp_path: Path) -> None:
    async def story(mesh: ControlMesh) -> None:
        file = tmp_path / "route.yaml"
        file.write_bytes(YAML_TEXT)
        ran = await mesh.meshq("route", "set", "orders", "--file", str(file))
        assert ran.code == 0
        assert "meshq: weights: no instance of orders ever served v1" in ran.err
        shown = await mesh.meshq("route", "show", "orders")
        assert YAML(typ="safe").load(shown.out)["weights"] == {"1": 90, "2": 10}
        ran = await mesh.meshq("route", "set", "orders", "--file", "-", stdin=shown.out)
        assert ran.out == "orders: nothing changed\n"
        ran = await mesh.meshq("route", "set", "orders", "--file", "-", "--weight", "2=1", stdin="timeout: 5s")
        assert "whenAbsent: fail -> not set" in ran.out.splitlines(), "nothing of the present one stays"
        table = await mesh.meshq("route", "show")
        assert table.out.splitlines()[1].split()[:3] == ["orders", "v2", "1"]
        assert (await mesh.meshq("route", "clear", "orders")).out == "orders has no route policy any more\n"
        gone = await mesh.meshq("route", "show", "orders")
        assert (gone.code, gone.out) == (1, "")
        assert gone.err.startswith("meshq: orders has no route policy")
        assert (await mesh.meshq("route", "clear", "orders")).code == 1
        assert (await mesh.meshq("route", "show", "-o", "json")).json == []

    told(story)


def test_what_the_mesh_refuses_is_1_with_every_fault() -> None:
    async def story(mesh: ControlMesh) -> None:
        ran = await mesh.meshq("route", "set", "orders", "--weight", "x=1", "--timeout", "soon")
        assert ran.code == 1
        assert "weights" in ran.err
        assert "timeout" in ran.err

    told(story)
