"""A three-node RabbitMQ cluster for the tests, on this machine: three node names, ports and data folders.

Nothing here collides with, or is seen by, a RabbitMQ that the machine itself runs: the nodes have a port mapper (epmd) of
their own, one HOME with their own Erlang cookie, and read none of the system's settings but broker-config/'s.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import environ
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from tests.servers.management import Management, Refused, unique
from tests.servers.processes import LOOPBACK, NoServer, ServerProcess, free_port, listening, wait_for
from tests.servers.wire import Wire

BROKER_CONFIG = Path(__file__).parents[2] / "broker-config"

START_TIMEOUT = 120
"""Seconds; a node takes about ten alone on a core."""


HEALING = 40
"""Seconds in which a cluster is whole again by itself, if it ever is."""


class Node(Protocol):
    """One member of a cluster that the tests started, so they may break it."""

    @property
    def name(self) -> str:
        """As RabbitMQ calls it: `meshq1@localhost`."""

    amqp_port: int
    management_port: int
    prometheus_port: int

    def kill(self) -> None:
        """As if the machine lost power: SIGKILL, data kept. Gone when this returns."""

    def stop(self) -> None:
        """Orderly. Gone when this returns."""

    def start(self) -> None:
        """Start it again on its data and ports; does not wait. Does nothing while it runs."""

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers (SIGSTOP)."""

    def resume(self) -> None: ...
    def cut(self) -> None:
        """Let nothing through between it and the others, its clients too, in both directions: as if its switch had died."""

    def mend(self) -> None:
        """Undo `cut`; does nothing where there was none."""

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl <arguments>` says there. Raises RuntimeError."""

    def keeps(self, vhost: str, queue: str) -> bool:
        """Whether its disk knows that it holds a replica of the quorum queue (one of that name in another virtual host is another). Its list of them is written some seconds after the
        declaration; a queue whose nodes are all killed before that never has a leader again (rabbitmq/rabbitmq-server#15725)."""

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Until it takes AMQP connections. Raises TimeoutError."""


class Cluster:
    """A RabbitMQ cluster and its management API. `nodes` is empty where somebody else runs the cluster."""

    def __init__(
        self,
        nodes: Sequence[Node],
        addresses: Sequence[tuple[str, int]],
        management: Management,
        user: str = "guest",
        password: str = "guest",
    ) -> None:
        self.nodes = tuple(nodes)
        self.addresses = tuple(addresses)
        self.management = management
        self.user = user
        self.password = password
        self._users: dict[str, list[str]] = {}  # by vhost

    @property
    def management_url(self) -> str:
        """Of the first node, with credentials: `http://guest:guest@127.0.0.1:25001`."""
        host, port = self.management.addresses[0]
        return f"http://{_credentials(self.user, self.password)}@{host}:{port}"

    @property
    def prometheus_urls(self) -> str:
        """Of all nodes: `http://127.0.0.1:25002,http://127.0.0.1:25005,http://127.0.0.1:25008`."""
        return ",".join(f"http://{LOOPBACK}:{node.prometheus_port}" for node in self.nodes)

    def url(self, vhost: str, user: str | None = None, password: str | None = None) -> str:
        """`amqp://guest:guest@127.0.0.1:p1,127.0.0.1:p2,127.0.0.1:p3/vhost`."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        credentials = _credentials(user or self.user, self.password if password is None else password)
        return f"amqp://{credentials}@{hosts}/{quote(vhost, safe='')}"

    def new_vhost(self) -> str:
        """A new, empty virtual host, running on every node; the cluster's user may do everything in it."""
        name = unique("t")
        self.management.create_vhost(name, self.user)
        wait_for(lambda: self._vhost_runs(name), 30, f"virtual host {name} on every node")
        return name

    def _vhost_runs(self, name: str) -> bool:
        states = self.management.request("GET", f"vhosts/{name}")["cluster_state"]
        return len(states) >= len(self.nodes) and all(state == "running" for state in states.values())

    def delete_vhost(self, vhost: str) -> None:
        """With everything in it, and the users that `add_user` made for it."""
        self.management.delete_vhost(vhost)
        for user in self._users.pop(vhost, []):
            self.management.delete_user(user)

    def add_user(
        self,
        name: str,
        password: str,
        vhost: str,
        permissions: tuple[str, str, str],
        topic_permissions: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        """A user of `vhost` only: expressions for (configure, write, read), and for (write, read) by topic exchange."""
        self.management.create_user(name, password)
        self._users.setdefault(vhost, []).append(name)
        self.management.permit(vhost, name, permissions)
        for exchange, (write, read) in (topic_permissions or {}).items():
            self.management.permit_topic(vhost, name, exchange, write, read)

    def wait_healthy(self, timeout: float = START_TIMEOUT) -> None:
        """Until every node runs in one cluster, takes connections, and no quorum queue would fall with a node more."""
        for node in self.nodes:
            node.wait_ready(timeout)
        try:
            wait_for(self._healthy, min(timeout, HEALING), "a healthy RabbitMQ cluster", poll=0.25)
        except TimeoutError:
            self._rejoin()
            wait_for(self._healthy, timeout, "a healthy RabbitMQ cluster", poll=0.25)

    def _rejoin(self) -> None:
        """Do what an operator has to when a partition was over before the minority noticed it, and so did not pause: restart it."""
        found = {entry["name"]: entry.get("partitions") or [] for entry in self.management.request("GET", "nodes")}
        for node in self.nodes:
            if len(found.get(node.name, ())) > len(self.nodes) // 2:  # it has lost the majority
                node.kill()
                node.start()
                node.wait_ready()

    def _healthy(self) -> bool:
        try:
            nodes = self.management.request("GET", "nodes", timeout=5)
        except (OSError, Refused):
            return False
        whole = len(nodes) >= len(self.nodes) and all(n.get("running") and not n.get("partitions") for n in nodes)
        return whole and all(
            self.management.at(LOOPBACK, node.management_port).answers("health/checks/node-is-quorum-critical")
            for node in self.nodes
        )

    def restore(self) -> None:
        """Undo what a test did to the nodes, and wait until the cluster is healthy again."""
        for node in self.nodes:
            node.mend()
            node.resume()
            node.start()
        self.wait_healthy()


def _credentials(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}"


# --- a cluster that somebody else runs -------------------------------------------------------------------------------------


def external(url: str, management_url: str = "") -> Cluster:
    """The servers of an `amqp://user:password@host[:port],host[:port]` URL. The management API is at `management_url`, by
    default at port 15672 of the same hosts with the same user, who must be an administrator."""
    hosts, user, password = _split(url, 5672)
    api, api_user, api_password = _split(management_url, 15672) if management_url else ([], user, password)
    management = Management(api or [(host, 15672) for host, _ in hosts], api_user, api_password)
    return Cluster((), hosts, management, user, password)


def _split(url: str, default_port: int) -> tuple[list[tuple[str, int]], str, str]:
    credentials, at, hosts = urlsplit(url).netloc.rpartition("@")
    user, _, password = credentials.partition(":") if at else ("guest", "", "guest")
    addresses = []
    for address in hosts.split(","):
        host, _, port = address.partition(":")
        addresses.append((host, int(port or default_port)))
    return addresses, unquote(user), unquote(password)


# --- a cluster of our own, from an installed RabbitMQ -----------------------------------------------------------------------


def installed() -> Path | None:
    """RabbitMQ's own start script. Debian's on the PATH is a wrapper that changes user and drops the environment, so the
    script behind it is preferred."""
    if not shutil.which("epmd") or not shutil.which("erl"):
        return None
    behind = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    found = behind if behind.exists() else shutil.which("rabbitmq-server")
    return Path(found) if found else None


class LocalNode:
    """One node from an installed RabbitMQ."""

    def __init__(self, name: str, script: Path, folder: Path, epmd_port: int) -> None:
        self.name = name
        self._script = script
        self.amqp_port = free_port()
        self.management_port = free_port()
        self.prometheus_port = free_port()
        self.folder = folder
        folder.mkdir()
        self._env = self._environment(epmd_port, free_port())
        self._wire = Wire(self.amqp_port)
        self._process = ServerProcess([*self._wire.command, str(script)], folder / "output", self._env, folder)

    def configure(self, seed: "LocalNode") -> None:
        """Write its settings. `seed` founds the cluster, alone and at once; the others join it. Started together with the
        usual full list, all would wait for a lock that one of them holds while it waits for the others: 25 s, not 12."""
        peers = "".join(
            f"cluster_formation.classic_config.nodes.{i} = {name}\n"
            for i, name in enumerate(dict.fromkeys([seed.name, self.name]), 1)
        )
        overrides = self.folder / "conf.d"
        overrides.mkdir()
        (overrides / "tests.conf").write_text(f"""\
cluster_formation.peer_discovery_backend = classic_config
{peers}listeners.tcp.1 = {LOOPBACK}:{self.amqp_port}
management.tcp.ip = {LOOPBACK}
management.tcp.port = {self.management_port}
prometheus.tcp.ip = {LOOPBACK}
prometheus.tcp.port = {self.prometheus_port}
# Figures every second: tests that read queue depths wait for them.
collect_statistics_interval = 1000
# Small: three of these share a machine with the tests.
vm_memory_high_watermark.relative = 0.1
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 16777216
""")
        shutil.copy(BROKER_CONFIG / "enabled_plugins", self.folder)

    def _environment(self, epmd_port: int, distribution_port: int) -> dict[str, str]:
        kept = {name: value for name, value in environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return kept | {
            "HOME": str(self.folder.parent),  # the Erlang cookie, one for the cluster
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(BROKER_CONFIG / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "config"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +A 8 -kernel inet_dist_use_interface {127,0,0,1}",
            # The script then becomes the server, instead of standing between it and our signals.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.stop()

    def start(self) -> None:
        self._process.start()

    def pause(self) -> None:
        self._process.send(SIGSTOP)

    def resume(self) -> None:
        self._process.send(SIGCONT)

    def cut(self) -> None:
        self._wire.cut()

    def mend(self) -> None:
        self._wire.mend()

    def ctl(self, *arguments: str) -> str:
        command = [str(self._script.with_name("rabbitmqctl")), "--node", self.name, *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def keeps(self, vhost: str, queue: str) -> bool:
        lists = [*(self.folder / "data").glob("*/quorum/*/names.dets")]
        return bool(lists) and all(f"{vhost}_{queue}".encode() in each.read_bytes() for each in lists)

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        try:
            wait_for(self._ready_or_dead, timeout, f"{self.name} ready")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the end of its log:\n{self._process.tail()}") from None
        if not self._process.running and "incompatible_feature_flags" in self._process.tail():
            # RabbitMQ 3.10 asked another that was just starting too. Whoever watches a node starts it again.
            self._process.start()
            wait_for(self._ready_or_dead, timeout, f"{self.name} ready")
        if not self._process.running:
            raise NoServer(f"{self.name} stopped; the end of its log:\n{self._process.tail()}")

    def _ready_or_dead(self) -> bool:
        if not self._process.running:
            return True
        # Its ports listen a little earlier, but a virtual host made just then is never started on this node.
        return self._process.said("Server startup complete") and listening(self.amqp_port)


@contextmanager
def local_cluster(script: Path, size: int = 3) -> Iterator[Cluster]:
    """A cluster of `size` nodes, healthy when the body runs, gone with its data after it."""
    folder = Path(tempfile.mkdtemp(prefix="meshq-rabbitmq-"))
    epmd_port = free_port()
    epmd = ServerProcess(["epmd", "-address", LOOPBACK, "-port", str(epmd_port)], folder / "epmd.log")
    nodes = [LocalNode(f"meshq{i}@localhost", script, folder / f"node{i}", epmd_port) for i in range(1, size + 1)]
    try:
        epmd.start()
        wait_for(lambda: listening(epmd_port), 10, "epmd")
        for node in nodes:
            node.configure(nodes[0])
        nodes[0].start()
        nodes[0].wait_ready()
        for node in nodes[1:]:
            node.start()
        addresses = [(LOOPBACK, node.amqp_port) for node in nodes]
        cluster = Cluster(nodes, addresses, Management([(LOOPBACK, node.management_port) for node in nodes]))
        cluster.wait_healthy()
        yield cluster
    finally:
        for node in nodes:
            node.mend()
            node.kill()
        epmd.kill()
        shutil.rmtree(folder, ignore_errors=True)
