"""What operators want of instances, and reads that wait for a change: control API and command line."""

import pytest

from meshq.core.instances import Load, State
from tests.control_mesh import ControlMesh, soon, told
from tests.http_tools import within

PAUSE, RESUME, DRAIN = (f"/v1/instances/host-a/{what}" for what in ("pause", "resume", "drain"))


def test_pause_and_resume() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        assert "pause" not in (await mesh.ask("GET", "/v1/instances/host-a")).body
        paused = await mesh.change("POST", PAUSE, {"reason": "new disk", "for": "5m"})
        assert (paused.status, paused.body["state"]) == (200, "paused")
        assert (paused.body["pause"]["by"], paused.body["pause"]["reason"]) == ("operator", "new disk")
        assert mesh.instance("orders", "host-a").orders.pause is not None
        forever = await mesh.change("POST", PAUSE)
        assert forever.body["pause"] == {"reason": "", "until": None, "by": "operator"}
        assert (await mesh.ask("GET", "/v1/instances/host-a")).body == forever.body
        assert (await mesh.ask("GET", "/v1/services/orders/instances/host-a")).body == forever.body
        assert (await mesh.change("POST", RESUME, {})).body["state"] == "ready"

    told(story)


def test_the_instances_own_pause_stays() -> None:
    async def story(mesh: ControlMesh) -> None:
        generation = mesh.register("orders", "host-a")
        mesh.registry.pause("orders", "host-a", "warming up", None, generation)
        await mesh.change("POST", PAUSE, {"for": 60})
        resumed = await mesh.change("POST", RESUME)
        assert resumed.body["pause"] == {"reason": "warming up", "until": None, "by": "self"}
        ran = await mesh.meshq("resume", "host-a")
        assert ran.out == "orders/host-a still pauses by itself, until it resumes\n"

    told(story)


def test_drain() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        assert (await mesh.change("POST", DRAIN)).status == 200
        assert mesh.instance("orders", "host-a").orders.drain

    told(story)


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "said"),
    [
        (
            "POST",
            "/v1/instances/nobody/pause",
            {},
            404,
            "there is no instance 'nobody'; instances known: host-a, host-b",
        ),
        ("POST", PAUSE + "?service=other", {}, 404, "there is no instance 'host-a' of other; instances known: none"),
        (
            "POST",
            PAUSE,
            {"for": "soon", "reason": "a\nb"},
            400,
            "reason: give one line of at most 200 characters; for: 'soon'",
        ),
        ("POST", PAUSE, {"for": 0}, 400, "for: 0 is no time"),
        ("POST", PAUSE, {"for": -1}, 400, "for: -1 is not a duration"),
        ("POST", PAUSE, {"fro": "5m"}, 400, "'fro': no such key; there are reason, for"),
        ("POST", PAUSE, [1], 400, "the body is a JSON object with reason, for"),
        ("POST", "/v1/instances/host-a/restart", {}, 404, "here are /v1/instances/<id>, and /pause"),
        ("GET", "/v1/instances/nobody", None, 404, "there is no instance 'nobody'"),
        ("GET", "/v1/services/orders/instances/nobody", None, 404, "there is no instance 'nobody' of orders"),
        ("GET", "/v1/services?index=x", None, 400, "index: 'x' is not a number"),
        ("GET", "/v1/services?index=1&wait=soon", None, 400, "wait: 'soon' is not a duration"),
    ],
)
def test_what_cannot_be(method: str, target: str, body: object, status: int, said: str) -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        mesh.register("orders", "host-b")
        refused = await mesh.change(method, target, body)
        assert refused.status == status
        assert refused.body["detail"].startswith(said)

    told(story)


def test_methods() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        assert (await mesh.ask("GET", PAUSE)).status == 405
        assert (await mesh.change("DELETE", "/v1/instances/host-a")).status == 405
        assert (await mesh.ask("POST", PAUSE)).status == 403, "a web page could send that"

    told(story)


def test_an_id_that_two_services_have_needs_its_service() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        mesh.register("billing", "host-a")
        refused = await mesh.change("POST", PAUSE, {})
        assert (refused.status, refused.body["code"]) == (400, "bad-request")
        assert refused.body["detail"].startswith(
            "host-a is an instance of billing, orders: say which is meant, with ?service="
        )
        ran = await mesh.meshq("pause", "host-a")
        assert (ran.code, ran.out) == (1, "")
        ran = await mesh.meshq("pause", "host-a", "--service", "billing")
        assert ran.out == "billing/host-a is paused until it is resumed\n"
        assert mesh.instance("orders", "host-a").state is State.READY

    told(story)


# --- the commands -----------------------------------------------------------------------------------------------------------


def test_the_commands_say_what_is_then() -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        ran = await mesh.meshq("pause", "host-a", "--for", "5m", "--reason", "new disk")
        assert ran.code == 0
        assert ran.out.startswith("orders/host-a is paused for ")
        table = await mesh.meshq("instances")
        assert table.out.splitlines()[0].split()[-1] == "NOTE"
        assert "paused by an operator for " in table.out
        assert table.out.rstrip().endswith(": new disk")
        ran = await mesh.meshq("resume", "host-a")
        assert ran.out == "orders/host-a is not paused by an operator any more, and is ready\n"
        assert "NOTE" not in (await mesh.meshq("instances")).out
        ran = await mesh.meshq("drain", "host-a", "-o", "json")
        assert (ran.code, ran.json["id"]) == (0, "host-a")
        ran = await mesh.meshq("drain", "nobody")
        assert (ran.code, ran.err) == (1, "meshq: there is no instance 'nobody'; instances known: host-a\n")

    told(story)


def test_drain_waits_until_nothing_is_in_flight() -> None:
    async def story(mesh: ControlMesh) -> None:
        generation = mesh.register("orders", "host-a")
        mesh.registry.renew("orders", "host-a", generation, Load(1, 16))
        late = await mesh.meshq("drain", "host-a", "--wait", "--timeout", "100ms")
        assert (late.code, late.err) == (1, "meshq: orders/host-a is not drained after 0.1 s: ready, 1 in flight\n")
        waiting = await soon(mesh.meshq("drain", "host-a", "--wait"))
        while not mesh.instance("orders", "host-a").orders.drain:
            await mesh.registry.changed(mesh.registry.snapshot().revision, 0.05)
        mesh.registry.set_state("orders", "host-a", generation, State.DRAINING)
        while not waiting.done():  # as a sidecar does, in its own time
            mesh.registry.renew("orders", "host-a", generation, Load(0, 16))
            await mesh.registry.changed(mesh.registry.snapshot().revision, 0.05)
        assert waiting.result().out == "orders/host-a is drained\n"

    told(story)


def test_drain_waits_no_longer_than_the_instance_is_there() -> None:
    async def story(mesh: ControlMesh) -> None:
        generation = mesh.register("orders", "host-a")
        waiting = await soon(mesh.meshq("drain", "host-a", "--wait"))
        while not mesh.instance("orders", "host-a").orders.drain:
            await mesh.registry.changed(mesh.registry.snapshot().revision, 0.05)
        mesh.registry.deregister("orders", "host-a", generation)
        assert (await within(waiting)).out == "orders/host-a is drained\n"

    told(story)


# --- reads that wait ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/services", "/v1/instances", "/v1/routes", "/v1/services/orders"])
def test_a_read_waits_for_a_change(path: str) -> None:
    async def story(mesh: ControlMesh) -> None:
        mesh.register("orders", "host-a")
        first = await mesh.ask("GET", path)
        index = first.field("Meshq-Index")
        assert (index, first.field("Meshq-Stale")) == (str(mesh.registry.snapshot().revision), "false")
        waiting = [await soon(mesh.ask("GET", f"{path}?index={index}&wait=10m")) for _ in range(3)]
        same = await mesh.ask("GET", f"{path}?index={index}&wait=10ms")
        assert (same.body, same.field("Meshq-Index")) == (first.body, index)
        mesh.register("orders", "host-b", "2.0.0")
        for each in waiting:
            told = await within(each)
            assert told.field("Meshq-Index") == str(mesh.registry.snapshot().revision)
        behind = await mesh.ask("GET", f"{path}?index={index}&wait=10m")
        assert behind.field("Meshq-Index") != index, "who is behind does not wait"

    told(story)


def test_who_hangs_up_waits_no_more() -> None:
    async def story(mesh: ControlMesh) -> None:
        index = (await mesh.ask("GET", "/v1/services")).field("Meshq-Index")
        waiting = await soon(mesh.ask("GET", f"/v1/services?index={index}&wait=10m"))
        waiting.cancel()
        await mesh.ask("GET", f"/v1/services?index={index}&wait=1ms")  # that it was not harmed

    told(story)
