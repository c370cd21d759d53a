"""Every setting of INTERFACE part 7: a good value, a bad one with its fault, and where values come from."""

from pathlib import Path
from typing import Any

import pytest

from meshq import settings
from meshq.core.events import EventAddress
from meshq.core.names import check_instance, parse_version
from meshq.core.policy import Retry
from meshq.core.selectors import parse_address
from meshq.core.subscriptions import Mode, Pattern, Subscription
from meshq.settings import BadSettings, Fault, Settings, load, load_apart, with_instance

REQUIRED = {
    "MESHQ_SERVICE": "orders",
    "MESHQ_SERVICE_VERSION": "2.3.1",
    "MESHQ_BROKER_URL": "amqp://orders:s3cret@rabbit-0,rabbit-1:5673/shop",
    "MESHQ_REGISTRY_URL": "redis://redis:6379/0",
}


def faults(environment: dict[str, str]) -> list[Fault]:
    with pytest.raises(BadSettings) as bad:
        load(environment)
    return bad.value.faults


def test_the_defaults_are_the_contracts() -> None:
    assert load(REQUIRED) == Settings(
        service="orders",
        service_version=parse_version("2.3.1"),
        broker_url=REQUIRED["MESHQ_BROKER_URL"],
        registry_url=REQUIRED["MESHQ_REGISTRY_URL"],
    )
    found = load(REQUIRED)
    assert (found.port, found.admin_port, found.dns_port) == (3600, 3601, 3602)
    assert (found.app_port, found.app_health, found.app_concurrency, found.app_timeout) == (None, "", 16, 60.0)
    assert (found.mesh, found.domain, found.dns_capture, found.ordered) == ("default", "mesh", False, False)
    assert (found.max_body, found.spool_limit, found.drain_timeout) == (4 * 2**20, 256 * 2**20, 25.0)
    assert found.retry == Retry(5, (1.0, 5.0, 30.0, 120.0))
    assert (found.ack, found.log_level, found.log_format, found.api_token) == ("confirm", "info", "", "")


GOOD: list[tuple[str, str, Any]] = [
    ("SERVICE", "billing", "billing"),
    ("SERVICE_VERSION", "1.0.0-rc.1+b", parse_version("1.0.0-rc.1+b")),
    ("SERVES", "1, 2,1", (1, 2)),
    ("APP_PORT", "8001", 8001),
    ("APP_HEALTH", "/healthz?deep=0", "/healthz?deep=0"),
    ("APP_CONCURRENCY", "1", 1),
    ("APP_TIMEOUT", "20m", 1200.0),
    ("BROKER_URL", "embedded:", "embedded:"),
    ("BROKER_URL", "embedded://", "embedded:"),
    ("BROKER_URL", "amqps://u:p@h/v", "amqps://u:p@h/v"),
    ("REGISTRY_URL", "redis+sentinel://h1,h2/name", "redis+sentinel://h1,h2/name"),
    ("REGISTRY_URL", "redis+cluster://h1", "redis+cluster://h1"),
    ("REGISTRY_URL", "rediss://h", "rediss://h"),
    ("MESH", "shop-2", "shop-2"),
    ("PORT", "0", 0),
    ("ADMIN_PORT", "9001", 9001),
    ("DNS_PORT", "53", 53),
    ("INTERCEPT", "8081=billing@1, 8082=orders", {8081: parse_address("billing@1"), 8082: parse_address("orders")}),
    ("HOST_PORTS", "80,8080", (80, 8080)),
    ("PASSTHROUGH", "example.com,api.example.com:8080", ("example.com", "api.example.com:8080")),
    ("DOMAIN", "shop", "shop"),
    ("DNS_CAPTURE", "on", True),
    ("ORDERED", "1", True),
    ("MAX_BODY", "15MiB", 15 * 2**20),
    ("MAX_BODY", "1024", 1024),
    ("RETRY", "3:500ms,2s", Retry(3, (0.5, 2.0))),
    ("RETRY", "7", Retry(7, (1.0, 5.0, 30.0, 120.0))),
    ("INSTANCE", "Orders_1.local", "orders-1-local"),
    ("WAIT_FOR", "stock@^2, billing,", (parse_address("stock@^2"), parse_address("billing"))),
    ("WAIT_FOR", "stock@>=2, <3,billing", (parse_address("stock@>=2,<3"), parse_address("billing"))),
    ("WAIT_FOR", "orders@1", (parse_address("orders@1"),)),
    (
        "LOG_EVENTS",
        "payments.settled, orders.placed@2",
        (EventAddress("payments.settled"), EventAddress("orders.placed", 2)),
    ),
    ("ACK", "spool", "spool"),
    ("SPOOL_DIR", "/var/spool/meshq", Path("/var/spool/meshq")),
    ("SPOOL_LIMIT", "1GiB", 2**30),
    ("DRAIN_TIMEOUT", "1.5s", 1.5),
    ("API_TOKEN", "s3cret", "s3cret"),
    ("LOG_LEVEL", "debug", "debug"),
    ("LOG_FORMAT", "json", "json"),
    (
        "SUBSCRIBE",
        "settled:payments.settled@1=/on/settled, all:payments.*@2=/all:8:broadcast",
        (
            Subscription("settled", Pattern("payments.settled"), "/on/settled"),
            Subscription("all", Pattern("payments.*", 2), "/all:8", Mode.BROADCAST),
        ),
    ),
    (
        "SUBSCRIBE",
        '[{"name": "s", "event": "payments.settled", "path": "/s", "filter": {"X-Shop": "a,b"}}]',
        (Subscription("s", Pattern("payments.settled"), "/s", filter=(("x-shop", "a,b"),)),),
    ),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD, ids=[f"{n}={t}" for n, t, _ in GOOD])
def test_a_good_value(name: str, text: str, value: object) -> None:
    assert getattr(load(REQUIRED | {f"MESHQ_{name}": text}), name.lower()) == value


def test_every_setting_has_a_good_value_here() -> None:
    tried = {name.lower() for name, _, _ in GOOD} | {"tls_ca", "tls_cert", "tls_key"}
    assert tried == set(Settings.__dataclass_fields__)


BAD: list[tuple[str, str, str]] = [
    ("SERVICE", "Orders", "not a service name"),
    ("SERVICE", "reply", "reserved"),
    ("SERVICE_VERSION", "2.3", "not a SemVer version such as 2.3.1"),
    ("SERVES", "1,x", "not a major version"),
    ("APP_PORT", "http", "valid integer"),
    ("APP_PORT", "0", "greater than or equal to 1"),
    ("APP_PORT", "65536", "65535"),
    ("APP_HEALTH", "healthz", "pattern"),
    ("APP_CONCURRENCY", "0", "greater than or equal to 1"),
    ("APP_TIMEOUT", "21m", "less than or equal to 1200"),
    ("APP_TIMEOUT", "0s", "greater than 0"),
    ("APP_TIMEOUT", "60", "not a duration such as"),
    ("BROKER_URL", "http://host", "amqp://user:password@"),
    ("BROKER_URL", "amqp:", "amqp://user:password@"),
    ("REGISTRY_URL", "amqp://host", "redis://host"),
    ("MESH", "A b", "pattern"),
    ("PORT", "-1", "greater than or equal to 0"),
    ("ADMIN_PORT", "x", "valid integer"),
    ("DNS_PORT", "70000", "65535"),
    ("INTERCEPT", "8081", "address|service"),
    ("INTERCEPT", "99999=orders", "not a port"),
    ("INTERCEPT", "8081=a,8081=b", "named twice"),
    ("INTERCEPT", "8081=orders@x", "not a version selector"),
    ("HOST_PORTS", "80,x", "valid integer"),
    ("DOMAIN", "my.mesh", "pattern"),
    ("DNS_CAPTURE", "perhaps", "valid boolean"),
    ("ORDERED", "2", "valid boolean"),
    ("MAX_BODY", "16MiB", "15728640"),
    ("MAX_BODY", "big", "not a size such as"),
    ("MAX_BODY", "0", "greater than 0"),
    ("RETRY", "0:1s", "attempts from 1 to 99"),
    ("RETRY", "5:soon", "not a duration"),
    ("ACK", "maybe", "'confirm' or 'spool'"),
    ("SPOOL_LIMIT", "-1", "not a size"),
    ("DRAIN_TIMEOUT", "0s", "greater than 0"),
    ("LOG_LEVEL", "loud", "'debug'"),
    ("LOG_FORMAT", "xml", "'json'"),
    ("TLS_CA", "/no/such/file.pem", "cannot be read"),
    ("WAIT_FOR", "Stock,billing@x", "'Stock' is not a service name.*; 'x' is not a version selector"),
    ("WAIT_FOR", "orders", "orders is this service itself"),
    ("WAIT_FOR", "billing,orders@^2.3", "orders@\\^2.3 is this service itself"),
    ("LOG_EVENTS", "Payments,orders.placed@x", "'Payments' is not an event name.*; 'x' is not a major version"),
    ("SUBSCRIBE", "payments.settled=/x", "not of the form name:event@1=/path"),
    ("SUBSCRIBE", "a:b=/x:shard, c:d=x", "there is no mode 'shard'.*path: 'x' is not a path"),
    ("SUBSCRIBE", "a:b=/x, a:c=/y", "2 subscriptions are called 'a'"),
    ("SUBSCRIBE", "[{", "begins like a JSON list and is none"),
    ("SUBSCRIBE", '[{"event": "a"}, 5]', "entry 1: path: is required; entry 2: give a map"),
]


@pytest.mark.parametrize(("name", "text", "says"), BAD, ids=[f"{n}={t}" for n, t, _ in BAD])
def test_a_bad_value_is_named_with_what_to_give(name: str, text: str, says: str) -> None:
    (fault,) = faults(REQUIRED | {f"MESHQ_{name}": text})
    assert fault.name == f"MESHQ_{name}"
    with pytest.raises(BadSettings, match=says):
        load(REQUIRED | {f"MESHQ_{name}": text})


def test_all_faults_at_once() -> None:
    found = faults(
        {
            "MESHQ_SERVICE": "Orders",
            "MESHQ_APP_TIMEOUT": "21m",
            "MESHQ_PORT": "8081",
            "MESHQ_INTERCEPT": "8081=billing",
            "MESHQ_APP_PROT": "8000",
            "MESHQ_TLS_KEY": "/no/such/key.pem",
            "MESHQ_CONFIG": "/no/such/file.yaml",
        }
    )
    shown = {fault.name.partition(" ")[0] for fault in found}
    assert shown == {
        "MESHQ_SERVICE", "MESHQ_SERVICE_VERSION", "MESHQ_BROKER_URL", "MESHQ_REGISTRY_URL", "MESHQ_APP_TIMEOUT", "MESHQ_PORT",
        "MESHQ_APP_PROT", "MESHQ_TLS_KEY", "MESHQ_CONFIG",
    }  # fmt: skip
    assert str(BadSettings(found)).count("; ") >= len(found) - 1


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"MESHQ_ADMIN_PORT": "3600"}, "MESHQ_PORT"),
        ({"MESHQ_INTERCEPT": "3601=orders"}, "MESHQ_PORT"),
        ({"MESHQ_DNS_PORT": "3600"}, "MESHQ_PORT"),
        ({"MESHQ_HOST_PORTS": "80,3602"}, "MESHQ_PORT"),
        ({"MESHQ_HOST_PORTS": "80,80"}, "MESHQ_PORT"),
        ({"MESHQ_HOST_PORTS": "80", "MESHQ_APP_PORT": "80"}, "MESHQ_APP_PORT"),
        ({"MESHQ_APP_PORT": "3600"}, "MESHQ_APP_PORT"),
        ({"MESHQ_APP_PORT": "8081", "MESHQ_INTERCEPT": "8081=orders"}, "MESHQ_APP_PORT"),
    ],
)
def test_a_port_is_used_once(more: dict[str, str], name: str) -> None:
    assert [fault.name for fault in faults(REQUIRED | more)] == [name]


def test_a_free_port_may_be_asked_for_twice() -> None:
    found = load(REQUIRED | {"MESHQ_PORT": "0", "MESHQ_ADMIN_PORT": "0"})
    assert (found.port, found.admin_port) == (0, 0)


def test_a_certificate_is_both_files(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("key")
    assert (
        load(REQUIRED | {"MESHQ_TLS_CERT": str(key), "MESHQ_TLS_KEY": str(key), "MESHQ_TLS_CA": str(key)}).tls_ca == key
    )
    (fault,) = faults(REQUIRED | {"MESHQ_TLS_KEY": str(key)})
    assert "MESHQ_TLS_CERT" in fault.message


# --- where they come from ----------------------------------------------------------------------------------------------------

YAML = """
service: orders
serviceVersion: 2.3.1
brokerUrl: amqp://orders:s3cret@rabbit-0/shop
registryUrl: "embedded:"
serves: [1, 2]
appPort: 8001
appTimeout: 90
intercept: {8081: billing@1}
retry: {attempts: 3, delays: [1s, 2s]}
dnsCapture: true
maxBody: 1MiB
subscribe:
- {event: payments.settled@1, path: /on/settled}
- {name: again, event: payments.settled, path: /again, mode: replay, from: 2026-11-01T00:00:00Z}
logEvents: [payments.settled]
instance: ""
"""


def test_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(YAML)
    found = load({"MESHQ_CONFIG": str(file)})
    assert (found.service, found.serves, found.app_port, found.app_timeout) == ("orders", (1, 2), 8001, 90.0)
    assert found.intercept == {8081: parse_address("billing@1")}
    assert found.retry == Retry(3, (1.0, 2.0))
    assert (found.dns_capture, found.max_body, found.instance) == (True, 2**20, "")
    assert found.subscribe == (
        Subscription("payments-settled-v1", Pattern("payments.settled"), "/on/settled"),
        Subscription("again", Pattern("payments.settled"), "/again", Mode.REPLAY, start="2026-11-01T00:00:00Z"),
    )
    assert found.log_events == (EventAddress("payments.settled"),)
    assert found.majors == (1, 2)


def test_the_environment_wins_where_it_says_something(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(YAML)
    found = load(
        {"MESHQ_CONFIG": str(file), "MESHQ_APP_PORT": "9000", "MESHQ_SERVICE": "billing", "MESHQ_MAX_BODY": ""}
    )
    assert (found.app_port, found.service, found.max_body) == (9000, "billing", 2**20)


@pytest.mark.parametrize(
    ("line", "name", "says"),
    [
        ("appPrt: 8000", "appPrt", "no such setting"),
        ("app_port: 8000", "app_port", "no such setting"),
        ("retry: {attempts: 3, delays: 5}", "MESHQ_RETRY (retry in the file)", "give {attempts"),
        ("retry: {attempt: 3}", "MESHQ_RETRY (retry in the file)", "give {attempts"),
        ("retry: [1]", "MESHQ_RETRY (retry in the file)", "number of attempts"),
        ("serves: {a: 1}", "MESHQ_SERVES (serves in the file)", "give majors"),
        ("intercept: [8081]", "MESHQ_INTERCEPT (intercept in the file)", "give ports and addresses"),
        ("drainTimeout: .inf", "MESHQ_DRAIN_TIMEOUT (drainTimeout in the file)", "finite"),
        ("logLevel: 7", "MESHQ_LOG_LEVEL (logLevel in the file)", "'debug'"),
        ("apiToken: [s3cret]", "MESHQ_API_TOKEN (apiToken in the file)", "valid string"),
    ],
)
def test_a_bad_line_in_a_file(tmp_path: Path, line: str, name: str, says: str) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(line)
    (fault,) = faults(REQUIRED | {"MESHQ_CONFIG": str(file)})
    assert fault.name == name
    assert says in fault.message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: b: c", "is not YAML, line 1"),
        (b"ok: 1\nport: 1\nport: 2\n", "is not YAML, line 3"),
        (b"brokerUrl: 'amqp://u:s3cret@h\n", "is not YAML, line"),
        (b"{brokerUrl: amqp://u:s3cret@h, }}", "is not YAML, line"),
        (b"port: \xff", "is not YAML"),
        (b"port: \x00", "is not YAML"),
        (b"port: 2026-13-45", "is not YAML"),
        (b"[" * 400, "is not YAML"),
        (b"- service", "has no map of settings at its top"),
        (b"just words", "has no map of settings at its top"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_bytes(content)
    (fault,) = faults(REQUIRED | {"MESHQ_CONFIG": str(file)})
    assert fault.name == "MESHQ_CONFIG"
    assert says in fault.message
    assert "s3cret" not in fault.message


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("# later\n")
    assert load(REQUIRED | {"MESHQ_CONFIG": str(file)}) == load(REQUIRED)


def test_what_kubernetes_says_of_services_called_meshq_is_no_setting() -> None:
    links = {
        "MESHQ_SERVICE_HOST": "10.0.0.1",
        "MESHQ_SERVICE_PORT": "3600",
        "MESHQ_SERVICE_PORT_HTTP": "3600",
        "MESHQ_PORT": "tcp://10.0.0.1:3600",
        "MESHQ_PORT_3600_TCP": "tcp://10.0.0.1:3600",
        "MESHQ_PORT_3600_TCP_ADDR": "10.0.0.1",
        "MESHQ_PORT_53_UDP_PROTO": "udp",
        "MESHQ_ADMIN_PORT": "tcp://10.0.0.2:80",
        "MESHQ_CONTROL_SERVICE_HOST": "10.0.0.3",
        "MESHQ_CONTROL_PORT": "tcp://10.0.0.3:3590",
    }
    assert load(REQUIRED | links) == load(REQUIRED)


def test_others_variables_are_left_alone() -> None:
    others = {
        "MESHQ_URL": "x",
        "MESHQ_TOKEN": "y",
        "MESHQ_CONTROL_URL": "z",
        "MESHQ_SOMETHING_ELSE": "1",
        "PATH": "/bin",
    }
    assert load(REQUIRED | others) == load(REQUIRED)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("MESHQ_APP_PROT", "MESHQ_APP_PORT"),
        ("MESHQ_SERVICEVERSION", "MESHQ_SERVICE_VERSION"),
        ("MESHQ_BROKER_URI", "MESHQ_BROKER_URL"),
    ],
)
def test_a_typo_is_found(variable: str, meant: str) -> None:
    assert faults(REQUIRED | {variable: "1"}) == [Fault(variable, f"no such setting; did you mean {meant}?")]


SECRET = "pa55word"


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host", f"amq://user:a/{SECRET}@host", f"amq://user:{SECRET}:x@y@host", f"user:{SECRET}@host",
        f"amqp://[user:{SECRET}@host", f"amqp://u:{SECRET}@h\u2100", f"//u:{SECRET}@h", f"amqp:u:{SECRET}@h", f"://{SECRET}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["MESHQ_BROKER_URL", "MESHQ_REGISTRY_URL"])
def test_a_password_is_never_in_a_fault(url: str, name: str) -> None:
    assert [fault.name for fault in faults(REQUIRED | {name: url})] == [name]
    assert SECRET not in str(BadSettings(faults(REQUIRED | {name: url})))


# --- what is made of them ------------------------------------------------------------------------------------------------------


def test_the_majors_of_an_app_and_of_a_mere_caller() -> None:
    assert load(REQUIRED | {"MESHQ_SERVES": "1"}).majors == ()
    assert load(REQUIRED | {"MESHQ_SERVES": "1", "MESHQ_APP_PORT": "8000"}).majors == (1, 2)
    assert load(REQUIRED | {"MESHQ_APP_PORT": "8000"}).majors == (2,)


def test_an_instance_id_is_made_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.socket, "gethostname", lambda: "Orders-7D9F.local")
    made = with_instance(load(REQUIRED)).instance
    assert made.startswith("orders-7d9f-local-")
    assert check_instance(made) == made
    assert with_instance(load(REQUIRED)).instance != made
    assert with_instance(load(REQUIRED | {"MESHQ_INSTANCE": "mine"})).instance == "mine"


def test_apart_gives_the_same() -> None:
    environment = REQUIRED | {"MESHQ_INTERCEPT": "8081=billing@^1.2", "MESHQ_SPOOL_DIR": "/tmp"}
    assert load_apart(environment)() == load(environment)


def test_apart_raises_the_same() -> None:
    environment = {"MESHQ_SERVICE": "X", "MESHQ_APP_PROT": "1"}
    with pytest.raises(BadSettings) as bad:
        load_apart(environment)()
    assert bad.value.faults == faults(environment)


def test_apart_raises_what_is_no_fault_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(settings, "load", fail)
    with pytest.raises(MemoryError, match="no more"):
        load_apart(REQUIRED)()


def test_apart_a_child_that_cannot_tell_does_not_become_a_second_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "load", lambda _: lambda: "a thing that cannot be pickled")
    with pytest.raises(EOFError):
        load_apart(REQUIRED)()
