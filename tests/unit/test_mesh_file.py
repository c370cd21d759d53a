"""mesh.yaml: what is taken, what is refused, where a fault is said to be; and what is made of a good file."""

from pathlib import Path

import pytest

from meshq.core.events import EventAddress
from meshq.core.scaling_values import ScalingPolicy
from meshq.core.selectors import parse_address
from meshq.core.subscriptions import Mode, Pattern, Subscription
from meshq.dev import banner, meshfile
from meshq.dev.meshfile import BadMeshFile, MeshFile
from meshq.dev.plan import Plan, make_plan
from meshq.settings import load

EXAMPLES = Path(__file__).parents[2] / "examples"

APP = "  - {service: orders, version: 1.0.0, command: run"


def faults(text: str) -> list[str]:
    with pytest.raises(BadMeshFile) as bad:
        meshfile.parse(text)
    return [str(fault) for fault in bad.value.faults]


def app(more: str) -> str:
    return f"apps:\n{APP}, {more}}}\n"


def plan(text: str, environment: dict[str, str] | None = None, control_port: int = 3590) -> Plan:
    return make_plan(
        meshfile.parse(text), Path("/shop"), environment or {}, control_port, lambda preferred, taken: preferred
    )


def plan_faults(text: str) -> list[str]:
    with pytest.raises(BadMeshFile) as bad:
        plan(text)
    return [str(fault) for fault in bad.value.faults]


@pytest.mark.parametrize("example", ["shop", "httpbin", "scaling"])
def test_the_examples_are_good(example: str) -> None:
    file = EXAMPLES / example / "mesh.yaml"
    made = make_plan(meshfile.read(file), file.parent, {}, 3590, lambda preferred, taken: preferred)
    assert made.warnings == ()
    assert made.mesh == example


def test_what_is_left_out_has_its_default() -> None:
    mesh = meshfile.parse(f"apps:\n{APP}}}\n")
    assert (mesh.mesh, mesh.broker, mesh.registry) == ("default", "embedded:", "embedded:")
    only = mesh.apps[0]
    assert (only.directory, only.port, only.replicas, only.health, only.proxy) == (".", None, 1, "", False)
    assert (dict(only.intercept), dict(only.env), only.sidecar_port, only.serves) == ({}, {}, None, True)


def test_every_key_is_read() -> None:
    mesh = meshfile.parse(
        """
        mesh: shop
        broker: amqp://u:p@h1,h2/shop
        registry: redis://r
        apps:
          - service: orders
            version: 2.0.0-rc.1
            command: python orders.py
            directory: ./orders
            port: 8001
            replicas: 1
            health: /healthz
            intercept: {8081: billing@^1.2}
            subscribe:
              - {event: payments.settled@1, path: /on/settled}
              - {name: audit, events: payments.*@2, path: /audit, mode: exclusive, filter: {X-Shop: berlin}}
              - {name: again, event: payments.settled, path: /x, mode: replay, from: 2026-11-01T00:00:00Z}
              - short:orders.placed=/on/placed:broadcast
            env: {LOG: debug, N: 5, ON: true, EMPTY: ""}
            proxy: true
            sidecarPort: 4000
        """
    )
    only = mesh.apps[0]
    assert mesh.broker == "amqp://u:p@h1,h2/shop"
    assert str(only.version) == "2.0.0-rc.1"
    assert only.intercept == {8081: parse_address("billing@^1.2")}
    assert only.env == {"LOG": "debug", "N": "5", "ON": "true", "EMPTY": ""}
    assert (only.port, only.sidecar_port, only.proxy, only.health) == (8001, 4000, True, "/healthz")
    assert only.subscribe == (
        Subscription("payments-settled-v1", Pattern("payments.settled"), "/on/settled"),
        Subscription("audit", Pattern("payments.*", 2), "/audit", Mode.EXCLUSIVE, (("x-shop", "berlin"),)),
        Subscription("again", Pattern("payments.settled"), "/x", Mode.REPLAY, start="2026-11-01T00:00:00Z"),
        Subscription("short", Pattern("orders.placed"), "/on/placed", Mode.BROADCAST),
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the file has no map at its top: it begins with mesh:, broker: and apps:"),
        ("- a\n", "the file has no map at its top: it begins with mesh:, broker: and apps:"),
        ("mesh: shop\n", "apps: is required"),
        ("apps: []\n", "line 1: apps: is empty"),
        ("apps: {}\n", "line 1: apps: give a list"),
        ("apps:\n  - 5\n", "line 2: apps[0]: is not a map with service, version and command"),
        ("mesh: a\nmesh: b\n", 'line 2: not YAML: found duplicate key "mesh" with value "b" (original value: "a")'),
        (f"mesh: No_\napps:\n{APP}}}\n", "line 1: mesh: give lower-case letters, digits and hyphens, at most 40"),
        (f"brocker: embedded\napps:\n{APP}}}\n", "line 1: brocker: no such key; did you mean broker?"),
        (
            f"zzz: 1\napps:\n{APP}}}\n",
            "line 1: zzz: no such key; there are mesh, broker, registry, apps",
        ),
        (
            f"broker: http://h\napps:\n{APP}}}\n",
            "line 1: broker: is embedded, or a URL such as amqp://user:password@host/vhost",
        ),
        (f"registry: h\napps:\n{APP}}}\n", "line 1: registry: is embedded, or a URL such as redis://host:6379/0"),
        (
            app("hostPorts: [80]"),
            ("line 2: apps[0] (orders).hostPorts: is for pods: here all apps share one localhost, so name a port in intercept, "
            "or call http://orders.localhost:<sidecar's port>/"),
        ),
        (app("comand: x"), "line 2: apps[0] (orders).comand: no such key; did you mean command?"),
        (app("sidecar_port: 1"), "line 2: apps[0] (orders).sidecar_port: no such key; did you mean sidecarPort?"),
        (app("port: 70000"), "line 2: apps[0] (orders).port: must be less than or equal to 65535"),
        (app("port: -1"), "line 2: apps[0] (orders).port: must be greater than or equal to 0"),
        (app("port: http"), "line 2: apps[0] (orders).port: give a whole number"),
        (app("replicas: 0"), "line 2: apps[0] (orders).replicas: must be greater than or equal to 1"),
        (app("replicas: 1.5"), "line 2: apps[0] (orders).replicas: give a whole number"),
        (app("health: healthz"), "line 2: apps[0] (orders).health: give a path such as /healthz"),
        (app("proxy: maybe"), "line 2: apps[0] (orders).proxy: give true or false"),
        (app("env: [A]"), "line 2: apps[0] (orders).env: give a map"),
        (app("env: {A: }"), 'line 2: apps[0] (orders).env.A: has no value: write "" for an empty one'),
        (app("env: {A: [1]}"), "line 2: apps[0] (orders).env.A: give text or a number"),
        (app("env: {A-B: x}"), "line 2: apps[0] (orders).env.A-B: 'A-B' is not the name of an environment variable"),
        (app("intercept: {web: billing}"), "line 2: apps[0] (orders).intercept.web: give a whole number"),
        (app("intercept: {0: billing}"), "line 2: apps[0] (orders).intercept.0: must be greater than or equal to 1"),
        (app("scale: 5"), "line 2: apps[0] (orders).scale: give a map such as {min: 0, max: 20, wait: 10s}"),
        (app("scale: {mim: 0}"), "line 2: apps[0] (orders).scale.mim: no such key; did you mean min?"),
        (app("scale: {min: 21}"), "line 2: apps[0] (orders).scale.min: 21 is above max, which is 20"),
        (app("scale: {max: 0}"), "line 2: apps[0] (orders).scale.max: 0 would let nothing run: give at least 1"),
        (app("scale: {max: 51}"), "line 2: apps[0] (orders).scale.max: must be less than or equal to 50"),
        (app("scale: {wait: 10}"), "line 2: apps[0] (orders).scale.wait: '10' has no unit: write 10s or 500ms"),
        (
            app("replicas: 1, scale: {max: 5}"),
            "line 2: apps[0] (orders).scale: the signal says how many, and replicas says it too: leave one of them out",
        ),
        (app("subscribe: [{event: x, pth: /a, path: /b}]"), "line 2: apps[0] (orders).subscribe[0].pth: no such key; did you mean path?"),
        (app("subscribe: [{event: x}]"), "line 2: apps[0] (orders).subscribe[0].path: is required"),
        (app("subscribe: x"), "line 2: apps[0] (orders).subscribe: give a list"),
        (app("subscribe: [5]"), "line 2: apps[0] (orders).subscribe[0]: give a map such as {event: payments.settled@1, path: /on/settled}"),
        (app("subscribe: [x]"), "line 2: apps[0] (orders).subscribe[0]: is not of the form name:event@1=/path[:mode]"),
        (
            app("subscribe: [{event: x, path: /a}, {event: x, path: /b}]"),
            "line 2: apps[0] (orders).subscribe: 2 subscriptions are called 'x-v1': give each a name of its own",
        ),
        ("apps:\n  - {service: a, command: x}\n", "line 2: apps[0] (a).version: is required"),
        ("apps:\n  - {service: a, version: 1.0.0}\n", "line 2: apps[0] (a).command: is required"),
        ("apps:\n  - {service: a, version: 1.0.0, command: ''}\n", "line 2: apps[0] (a).command: is empty"),
        (
            "apps:\n  - {service: meshq-control, version: 1.0.0, command: x}\n",
            "line 2: apps[0] (meshq-control).service: 'meshq-control' is what the control API calls itself: choose another name",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize("name", ["Orders", "dead", "-a", "a" * 41])
def test_a_service_that_cannot_be_is_refused(name: str) -> None:
    (fault,) = faults(f"apps:\n  - {{service: {name}, version: 1.0.0, command: x}}\n")
    assert fault.startswith(f"line 2: apps[0] ({name}).service: {name!r}")


def test_a_version_that_yaml_reads_as_a_number_is_explained() -> None:
    (fault,) = faults("apps:\n  - service: a\n    version: 1.0\n    command: x\n")
    assert fault.startswith("line 3: apps[0] (a).version: '1.0' is not a SemVer version")
    assert 'write it in full, as "1.0.0"' in fault


def test_a_scale_is_a_policy_with_the_usual_values_for_what_is_left_out() -> None:
    assert meshfile.parse(app("scale: {}")).apps[0].scale == ScalingPolicy()
    written = app("scale: {min: 1, max: 5, wait: 500ms, quantile: 0.9, lead: 2s, idle: 1m}")
    only = meshfile.parse(written).apps[0]
    assert only.scale == ScalingPolicy(wait=0.5, quantile=0.9, min=1, max=5, lead=2.0, idle=60.0)
    assert (only.at_start, only.at_most) == (1, 5)


def test_broken_yaml_is_told_with_its_line() -> None:
    (fault,) = faults("mesh: shop\napps: [\n")
    assert fault.startswith("line 3: not YAML: ")


def test_every_fault_is_told_at_once_in_the_order_of_the_file() -> None:
    found = faults(
        "meh: x\napps:\n  - {service: A, version: 1.0.0, command: x}\n  - {service: b, version: x, command: x, prt: 1}\n"
    )
    assert [fault.partition(": ")[0] for fault in found] == ["line 1", "line 3", "line 4", "line 4"]


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(BadMeshFile, match="cannot be read: No such file"):
        meshfile.read(tmp_path / "none.yaml")
    (tmp_path / "mesh.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadMeshFile, match="is not UTF-8"):
        meshfile.read(tmp_path / "mesh.yaml")


def test_the_command_line_overrules_the_servers() -> None:
    mesh = meshfile.parse(f"apps:\n{APP}}}\n")
    assert mesh.with_servers("amqp://h/v", "redis://r") == MeshFile("default", "amqp://h/v", "redis://r", mesh.apps)
    assert mesh.with_servers(None, "embedded") == mesh
    with pytest.raises(BadMeshFile) as bad:
        mesh.with_servers("h", "r")
    assert [fault.place for fault in bad.value.faults] == ["--broker", "--registry"]


# --- the plan -----------------------------------------------------------------------------------------------------------------

TWO_AND_A_CALLER = """
mesh: shop
apps:
  - {service: a, version: 1.0.0, command: x, replicas: 2, intercept: {8081: b@1}, proxy: true, env: {LOG: debug}}
  - {service: b, version: 1.2.3, command: y, directory: sub, port: 9000, health: /h}
  - {service: c, version: 1.0.0, command: z, port: 0}
"""


def test_sidecars_get_ports_in_the_order_of_the_file_and_of_replicas() -> None:
    units = plan(TWO_AND_A_CALLER).units
    assert [(u.label, u.sidecar_port, u.admin_port, u.port) for u in units] == [
        ("a/1", 3600, 3601, 3605),
        ("a/2", 3610, 3611, 3615),
        ("b", 3620, 3621, 9000),
        ("c", 3630, 3631, None),
    ]
    assert units[2].directory == Path("/shop/sub")


@pytest.mark.parametrize("variable", ["MESHQ_HOST_PORTS", "MESHQ_DNS_CAPTURE"])
def test_what_is_for_pods_is_refused_here(variable: str) -> None:
    with pytest.raises(BadMeshFile, match=f"{variable}: is for pods.*name a port in intercept.*unset it"):
        plan(TWO_AND_A_CALLER, {variable: "80"})
    assert plan(TWO_AND_A_CALLER, {"MESHQ_DNS_CAPTURE": "0"})


def test_a_sidecar_port_of_its_own_counts_all_the_same() -> None:
    units = plan(
        "apps:\n"
        "  - {service: a, version: 1.0.0, command: x, replicas: 2, sidecarPort: 5000}\n"
        "  - {service: b, version: 1.0.0, command: x}\n"
    ).units
    assert [u.sidecar_port for u in units] == [5000, 5010, 3620]


def test_the_first_replica_listens_for_all() -> None:
    units = plan(TWO_AND_A_CALLER).units
    assert [dict(u.intercept) for u in units] == [{8081: parse_address("b@1")}, {}, {}, {}]


def test_the_environment_of_an_app() -> None:
    outside = {"PATH": "/bin", "PORT": "1", "MESHQ_BROKER_URL": "amqp://h", "HTTP_PROXY": "http://corporate"}
    first, _, second, caller = plan(TWO_AND_A_CALLER, outside).units
    url = "http://127.0.0.1:3600"
    assert first.environment == {
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        "MESHQ_URL": url,
        "PORT": "3605",
        "HTTP_PROXY": url,
        "http_proxy": url,
        "NO_PROXY": "localhost,127.0.0.1",
        "no_proxy": "localhost,127.0.0.1",
        "LOG": "debug",
    }
    assert second.environment["PORT"] == "9000"
    assert second.environment["HTTP_PROXY"] == "http://corporate"
    assert "PORT" not in caller.environment


def test_the_settings_of_a_sidecar() -> None:
    first, _, second, caller = plan(TWO_AND_A_CALLER, {"MESHQ_LOG_LEVEL": "debug", "MESHQ_PORT": "9"}).units
    assert first.sidecar_environment == {
        "MESHQ_LOG_LEVEL": "debug",
        "MESHQ_SERVICE": "a",
        "MESHQ_SERVICE_VERSION": "1.0.0",
        "MESHQ_MESH": "shop",
        "MESHQ_BROKER_URL": "embedded:",
        "MESHQ_REGISTRY_URL": "embedded:",
        "MESHQ_APP_HEALTH": "",
        "MESHQ_APP_PORT": "3605",
        "MESHQ_PORT": "3600",
        "MESHQ_ADMIN_PORT": "3601",
        "MESHQ_DNS_PORT": "3602",
        "MESHQ_INTERCEPT": "8081=b@1",
    }
    assert (second.sidecar_environment["MESHQ_APP_HEALTH"], second.sidecar_environment["MESHQ_APP_PORT"]) == (
        "/h",
        "9000",
    )
    assert "MESHQ_APP_PORT" not in caller.sidecar_environment


@pytest.mark.parametrize(
    ("apps", "labels"),
    [
        ([("a", "1.0.0", 1), ("b", "1.0.0", 1)], ["a", "b"]),
        ([("a", "1.0.0", 3)], ["a/1", "a/2", "a/3"]),
        ([("a", "1.4.2", 1), ("a", "2.0.0", 2)], ["a@1", "a@2/1", "a@2/2"]),
        ([("a", "1.4.2", 1), ("a", "1.5.0", 1)], ["a@1.4.2", "a@1.5.0"]),
        ([("a", "1.0.0", 1), ("a", "1.0.0", 1)], ["a/1", "a/2"]),
    ],
)
def test_labels_tell_all_units_apart(apps: list[tuple[str, str, int]], labels: list[str]) -> None:
    text = "apps:\n" + "".join(
        f"  - {{service: {service}, version: {version}, command: x, replicas: {replicas}}}\n"
        for service, version, replicas in apps
    )
    assert [unit.label for unit in plan(text).units] == labels


def test_a_port_is_used_once() -> None:
    found = plan_faults(
        "apps:\n"
        "  - {service: a, version: 1.0.0, command: x, port: 8001, intercept: {8081: b}}\n"
        "  - {service: b, version: 1.0.0, command: x, port: 8081, sidecarPort: 3590}\n"
        "  - {service: c, version: 1.0.0, command: x, port: 3601}\n"
    )
    assert found == [
        "apps[1] (b).sidecarPort: port 3590 is also the control API (--control-port): this machine has it once",
        "apps[2] (c).port: port 3601 is also apps[0] (a).sidecarPort + 1: this machine has it once",
        "apps[1] (b).port: port 8081 is also apps[0] (a).intercept.8081: this machine has it once",
    ]


def test_a_fixed_port_and_replicas_do_not_go_together() -> None:
    (fault,) = plan_faults(app("port: 8001, replicas: 2"))
    assert fault.startswith(
        "apps[0] (orders).port: 8001 can be held by one replica only, and there are 2: leave port out"
    )


def test_an_embedded_registry_does_not_go_with_a_broker_of_its_own() -> None:
    (fault,) = plan_faults(f"broker: amqp://h/v\napps:\n{APP}}}\n")
    assert "give a registry that all can reach, registry: redis://host" in fault


def test_what_leads_nowhere_is_warned_of() -> None:
    made = plan(app("intercept: {8081: billing}"))
    assert made.warnings == ("intercept 8081 of orders: no app here is called billing",)


def test_a_sidecar_is_told_of_its_subscriptions_whatever_they_have() -> None:
    written = (
        "subscribe: [{event: x, path: '/a,b'}, {name: r, event: x.y, path: /r, mode: replay, filter: {A: b}, from: 5}]"
    )
    (unit,) = plan(app(written)).units
    settings = load(unit.sidecar_environment)
    assert settings.subscribe == unit.app.subscribe
    assert settings.log_events == (EventAddress("x.y"),), "what is replayed has to be logged"


def test_an_app_without_a_port_gets_no_events() -> None:
    (fault,) = plan_faults(app("port: 0, subscribe: [{event: x, path: /x}]"))
    assert fault.startswith("apps[0] (orders).subscribe: events are posted to the app")


# --- apps that are scaled -----------------------------------------------------------------------------------------------------

SCALED_AND_A_CALLER = """
apps:
  - {service: a, version: 2.0.0, command: x, scale: {min: 1, max: 3}, intercept: {8081: c@1}}
  - {service: b, version: 1.0.0, command: y, scale: {max: 1}}
  - {service: c, version: 1.0.0, command: z}
"""


def test_a_scaled_app_has_the_ports_of_all_the_replicas_that_it_may_have() -> None:
    made = plan(SCALED_AND_A_CALLER)
    assert [(unit.label, unit.sidecar_port, unit.port, unit.at_start) for unit in made.units] == [
        ("a/1", 3600, 3605, True),
        ("a/2", 3610, 3615, False),
        ("a/3", 3620, 3625, False),
        ("b", 3630, 3635, False),
        ("c", 3640, 3645, True),
    ]
    first, second = made.scaled
    assert (first.name, first.topic, first.policy) == ("a", "a.v2", ScalingPolicy(min=1, max=3))
    assert [unit.label for unit in first.units] == ["a/1", "a/2", "a/3"]
    assert (second.name, second.topic, [unit.label for unit in second.units]) == ("b", "b.v1", ["b"])


def test_what_is_scaled_is_shown_in_one_line() -> None:
    made = plan(SCALED_AND_A_CALLER)
    assert [line.split("  ")[1:] for line in map(_squeezed, banner.table(made))][1:] == [
        ["a, 1..3 replicas", "2.0.0", "3600..3620", "3605..3625", "8081 for c@1"],
        ["b, 0..1 replicas", "1.0.0", "3630", "3635"],
        ["c", "1.0.0", "3640", "3645"],
    ]
    assert banner.summary(made) == "3 apps in 2 to 5 replicas"


def _squeezed(line: str) -> str:
    while "   " in line:
        line = line.replace("   ", "  ")
    return line


def test_who_calls_is_told_of_a_sidecar_that_runs() -> None:
    def how(text: str) -> list[str]:
        lines = banner.lines(plan(text), Path("/shop/mesh.yaml"), "http://127.0.0.1:9", str)
        return [line for line in lines if line.startswith("call one:")]

    asleep = "  - {service: a, version: 1.0.0, command: x, scale: {max: 2}}\n"
    assert how(f"apps:\n{asleep}") == ["call one:  meshq call a / --control http://127.0.0.1:9"]
    (both,) = how(f"apps:\n{asleep}{APP}}}\n")
    assert both.startswith("call one:  curl http://localhost:3620/v1/call/a/")


def test_a_replica_that_goes_has_all_the_time_of_a_message() -> None:
    def drain(more: str, environment: dict[str, str]) -> str | None:
        return plan(app(more), environment).units[0].sidecar_environment.get("MESHQ_DRAIN_TIMEOUT")

    assert drain("scale: {}", {}) == "60s"
    assert load(plan(app("scale: {}")).units[0].sidecar_environment).app_timeout == 60.0
    assert drain("scale: {}", {"MESHQ_APP_TIMEOUT": "5m"}) == "5m"
    assert drain("scale: {}", {"MESHQ_APP_TIMEOUT": "5m", "MESHQ_DRAIN_TIMEOUT": "1s"}) == "1s"
    assert drain("replicas: 2", {}) is None


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("port: 8001, scale: {max: 2}", "port: 8001 can be held by one replica only, and there are up to 2: leave port out"),
        ("port: 0, scale: {}", "scale: nothing waits for an app that only calls out"),
        ("scale: {}, subscribe: [{event: x, path: /x, mode: replay}]", "scale: a log is replayed by a replica, and min 0"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_scaling(more: str, fault: str) -> None:
    (found,) = plan_faults(app(more))
    assert found.startswith(f"apps[0] (orders).{fault}")


def test_one_app_follows_the_signal_of_a_topic() -> None:
    (found,) = plan_faults(f"apps:\n{APP}, scale: {{}}}}\n  - {{service: orders, version: 1.2.0, command: run}}\n")
    assert found.startswith(
        "apps[0] (orders).scale: the signal is that of orders.v1, and apps[1] (orders).version serves"
    )
    assert plan(f"apps:\n{APP}, scale: {{}}}}\n  - {{service: orders, version: 2.0.0, command: run}}\n").scaled
    assert plan(app("port: 8001, scale: {max: 1}")).scaled
    assert plan(app("scale: {min: 1}, subscribe: [{event: x, path: /x, mode: replay}]")).scaled
