"""Several Redis servers that work together: a cluster of three masters, and a master and a replica with three Sentinels. And one that
speaks only TLS. From the Debian binaries; nothing is kept but what a test needs kept."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.servers.processes import LOOPBACK, NoServer, ServerProcess, free_port, listening, wait_for
from tests.servers.redis import BROKER_CONFIG, START_TIMEOUT, installed

MASTER = "mesh"
PASSWORD = "of-redis"
SENTINEL_PASSWORD = "of-sentinel"
SLOTS = 16384


class Node:
    """One server on loopback."""

    def __init__(self, folder: Path, port: int, options: dict[str, str], *, sentinel: bool = False) -> None:
        self.port = port
        self._password = options.get("requirepass")
        folder.mkdir(parents=True)
        config = folder / "redis.conf"
        settings = {"bind": LOOPBACK, "port": str(port), "dir": str(folder), **options}
        base = "" if sentinel else f"include {BROKER_CONFIG / 'redis.conf'}\n"
        # A file of its own: replicas and Sentinels write what they learn into it.
        config.write_text(base + "".join(f"{name} {value}\n" for name, value in settings.items()))
        program = installed()
        if program is None:
            raise NoServer("the tests need redis-server: install it (on Debian: apt-get install redis-server)")
        command = [program, str(config), *(["--sentinel"] if sentinel else [])]
        self.process = ServerProcess(command, folder / "output")

    @property
    def url(self) -> str:
        password = f":{self._password}@" if self._password else ""
        return f"redis://{password}{LOOPBACK}:{self.port}"

    def client(self) -> Any:
        return redis.Redis(host=LOOPBACK, port=self.port, password=self._password, protocol=2, socket_timeout=5)

    def start(self) -> None:
        self.process.start()
        try:
            wait_for(self.answers, START_TIMEOUT, f"Redis on port {self.port}", poll=0.02)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the end of its log:\n{self.process.tail()}") from None

    def answers(self) -> bool:
        with suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def kill(self) -> None:
        self.process.kill()


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"meshq-{name}-", dir=os.environ.get("TMPDIR", "/tmp")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- a cluster ----------------------------------------------------------------------------------------------------------------


class RedisCluster:
    """Three masters without replicas."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.url = "redis+cluster://" + ",".join(f"{LOOPBACK}:{node.port}" for node in nodes)

    def empty(self) -> None:
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def wait_whole(self) -> None:
        wait_for(lambda: all(_is_whole(node) for node in self.nodes), START_TIMEOUT, "the cluster whole", poll=0.05)

    @contextmanager
    def moving(self, key: str) -> Iterator[None]:
        """The slot of `key` is on its way to another node, with all that is in it, and arrives at the end."""
        slot = key_slot(key.encode())
        source = self.owner(key)
        target = next(node for node in self.nodes if node is not source)
        with source.client() as ours, target.client() as theirs:
            source_id, target_id = (each.execute_command("CLUSTER", "MYID").decode() for each in (ours, theirs))
            theirs.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
            ours.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
            yield
            keys = ours.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            if keys:
                ours.execute_command("MIGRATE", LOOPBACK, target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def owner(self, key: str) -> Node:
        """The node that has `key`."""
        slot = key_slot(key.encode())
        with self.nodes[0].client() as client:
            ranges = client.execute_command("CLUSTER", "SLOTS")
        (port,) = (port for first, last, (_, port, *_), *_ in ranges if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)


@contextmanager
def redis_cluster() -> Iterator[RedisCluster]:
    with _folder("redis-cluster") as folder:
        nodes = []
        for n in range(3):
            port = free_port()
            options = {
                "cluster-enabled": "yes",
                "cluster-port": str(free_port()),
                "cluster-node-timeout": "2000",
                "appendonly": "no",
            }
            nodes.append(Node(folder / str(n), port, options))
        try:
            for node in nodes:
                node.start()
            for n, node in enumerate(nodes):
                with node.client() as client:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOTS * n // 3, SLOTS * (n + 1) // 3 - 1)
                    client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            with nodes[0].client() as client:
                for node in nodes[1:]:
                    with node.client() as other:
                        bus = int(other.config_get("cluster-port")["cluster-port"])
                    client.execute_command("CLUSTER", "MEET", LOOPBACK, node.port, bus)
            cluster = RedisCluster(nodes)
            cluster.wait_whole()
            yield cluster
        finally:
            for node in nodes:
                node.kill()


def _is_whole(node: Node) -> bool:
    with node.client() as client:
        info: bytes = client.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info


# --- Sentinel -----------------------------------------------------------------------------------------------------------------


class Sentinel:
    """A master and a replica, with passwords, and three Sentinels, with one of their own."""

    def __init__(self, servers: list[Node], sentinels: list[Node]) -> None:
        self.servers = servers
        self.sentinels = sentinels
        hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in sentinels)
        self.url = f"redis+sentinel://:{PASSWORD}@{hosts}/{MASTER}?sentinel_password={SENTINEL_PASSWORD}"

    @property
    def master(self) -> Node:
        """That the Sentinels name."""
        with self.sentinels[0].client() as client:
            flat = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return next(node for node in self.servers if node.port == int(flat[1]))

    @property
    def replica(self) -> Node:
        return next(node for node in self.servers if node is not self.master)

    def empty(self) -> None:
        with self.master.client() as client:
            client.flushall()

    def wait_replicated(self) -> None:
        """Until the replica has all that the master has."""

        def same() -> bool:
            with self.master.client() as client:
                return bool(client.wait(1, 100))

        wait_for(same, START_TIMEOUT, "the replica to have everything", poll=0.05)

    def wait_failed_over(self, dead: Node) -> None:
        wait_for(
            lambda: self.master is not dead and self._is_master(self.master), START_TIMEOUT, "a new master", poll=0.05
        )

    def restore(self) -> None:
        """All run, one is the master, the other its replica and seen so by every Sentinel."""
        for node in (*self.servers, *self.sentinels):
            node.start()
        wait_for(self._is_well, START_TIMEOUT, "master, replica and Sentinels", poll=0.05)

    def _is_well(self) -> bool:
        with suppress(redis.RedisError, StopIteration):
            states = []
            for sentinel in self.sentinels:
                with sentinel.client() as client:
                    states.append(client.sentinel_master(MASTER))
            agreed = len({(state["ip"], state["port"]) for state in states}) == 1
            well = all(
                state["num-slaves"] == 1 and state["num-other-sentinels"] == 2 and not state["is_sdown"]
                for state in states
            )
            return agreed and well and self._is_master(self.master) and self._is_linked(self.replica)
        return False

    @staticmethod
    def _is_master(node: Node) -> bool:
        with suppress(redis.RedisError), node.client() as client:
            return bool(client.role()[0] == b"master")
        return False

    @staticmethod
    def _is_linked(node: Node) -> bool:
        with node.client() as client:
            role = client.role()
        return bool(role[0] == b"slave" and role[3] == b"connected")


@contextmanager
def redis_sentinel() -> Iterator[Sentinel]:
    with _folder("redis-sentinel") as folder:
        kept = {"requirepass": PASSWORD, "masterauth": PASSWORD, "appendonly": "yes", "appendfsync": "no"}
        quick = {"repl-diskless-sync-delay": "0", "repl-timeout": "5"}
        master = Node(folder / "one", free_port(), kept | quick)
        follows = {"replicaof": f"{LOOPBACK} {master.port}"}
        replica = Node(folder / "two", free_port(), kept | quick | follows)
        watch = {
            "requirepass": SENTINEL_PASSWORD,
            "sentinel monitor": f"{MASTER} {LOOPBACK} {master.port} 2",
            "sentinel auth-pass": f"{MASTER} {PASSWORD}",
            "sentinel sentinel-pass": SENTINEL_PASSWORD,
            "sentinel down-after-milliseconds": f"{MASTER} 1000",
            "sentinel failover-timeout": f"{MASTER} 5000",
        }
        sentinels = [Node(folder / f"sentinel-{n}", free_port(), watch, sentinel=True) for n in range(3)]
        found = Sentinel([master, replica], sentinels)
        try:
            master.start()
            found.restore()
            yield found
        finally:
            for node in (*sentinels, replica, master):
                node.kill()


# --- TLS ----------------------------------------------------------------------------------------------------------------------


class TlsRedis:
    """A Redis that takes only clients with a certificate. `certify` makes another authority and certificates in place of these."""

    def __init__(self, folder: Path, port: int, process: ServerProcess, certify: Callable[[], None]) -> None:
        self.url = f"rediss://{LOOPBACK}:{port}"
        self.ca, self.cert, self.key = (folder / name for name in ("ca.crt", "client.crt", "client.key"))
        self._process = process
        self._certify = certify

    def renew_certificates(self) -> None:
        """All of them, those of the server too, which begins anew."""
        self._process.kill()
        self._certify()
        self.start()

    def start(self) -> None:
        self._process.start()
        port = int(self.url.rpartition(":")[2])
        wait_for(lambda: listening(port), START_TIMEOUT, "Redis over TLS", poll=0.02)


@contextmanager
def tls_redis() -> Iterator[TlsRedis]:
    program = installed()
    if program is None or shutil.which("openssl") is None:
        raise NoServer(
            "the tests need redis-server and openssl: install them (on Debian: apt-get install redis-server openssl)"
        )
    with _folder("redis-tls") as folder:
        port = free_port()
        settings = {
            "bind": LOOPBACK,
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": str(folder / "server.crt"),
            "tls-key-file": str(folder / "server.key"),
            "tls-ca-cert-file": str(folder / "ca.crt"),
            "dir": str(folder),
            "appendonly": "no",
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        process = ServerProcess([program, str(BROKER_CONFIG / "redis.conf"), *options], folder / "output")
        _certificates(folder)
        server = TlsRedis(folder, port, process, lambda: _certificates(folder))
        try:
            server.start()
            yield server
        finally:
            process.kill()


def _certificates(folder: Path) -> None:
    """An authority, and by it a certificate for 127.0.0.1 and one for a client."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "1", "-subj", "/CN=tests")
    for name, extension in (("server", f"subjectAltName=IP:{LOOPBACK}"), ("client", "extendedKeyUsage=clientAuth")):
        (folder / "extension").write_text(extension)
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        issue = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "extension")
        openssl("x509", "-req", "-in", f"{name}.csr", *issue, "-out", f"{name}.crt")
