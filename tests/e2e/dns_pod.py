"""What an unmodified app sees in a pod whose resolver is the sidecar: `unshare --net --mount python -m tests.e2e.dns_pod FOLDER`.

In namespaces of its own, so that port 53 and 80 of loopback and /etc/resolv.conf are this pod's. The sidecars of the app and of
`orders` run there on the embedded broker, and a resolver at 127.0.0.2 that stands for the cluster's. Prints one JSON map: probe
-> what came of it.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import dns.message
import dns.rcode

from tests.dns_rig import LOOPBACK, Upstream, good
from tests.e2e.pods import PATIENCE, App, environment
from tests.servers.processes import ServerProcess, wait_for

CLUSTER_DNS = "127.0.0.2"
RESOLV_CONF = f"""\
search shop.svc.cluster.local svc.cluster.local cluster.local
nameserver {LOOPBACK}
nameserver {CLUSTER_DNS}
options ndots:5
"""
IN_CLUSTER = {
    "orders.shop.svc.cluster.local.": "192.0.2.1",
    "legacy.shop.svc.cluster.local.": "192.0.2.2",
    "orders.other.svc.cluster.local.": "192.0.2.3",
    "outside.example.": "192.0.2.4",
}
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def main(folder: Path) -> int:
    _loopback_up()
    (folder / "resolv.conf").write_text(RESOLV_CONF)
    subprocess.run(["mount", "--bind", folder / "resolv.conf", "/etc/resolv.conf"], check=True)
    threading.Thread(target=_cluster_dns, daemon=True).start()
    with ExitStack() as stack:
        app = App(folder / "orders.journal", folder / "app.log").start().wait_ready()
        stack.callback(app.kill)
        pair = _pair(folder, app.port)
        pair.start()
        stack.callback(pair.stop)
        wait_for(lambda: _status("http://orders.mesh/") == "200", PATIENCE, f"a call through {pair.log}", poll=0.05)
        print(json.dumps(_probes()))
    return 0


def _probes() -> dict[str, str]:
    found = {f"get {url}": _status(url) for url in URLS}
    found |= {f"look up {name}": _address(name) for name in NAMES}
    found["a stranger's host"] = _status("http://127.0.0.1/", Host="evil.example")
    found["the sidecar's own API"] = _status("http://127.0.0.1/v1/self", Host="localhost")
    found["a page from elsewhere"] = _status("http://orders.shop/", Origin="http://evil.example")
    found["a page of a captured name"] = _status("http://orders.shop/", Origin="http://orders.shop")
    proxy = {"http": "http://localhost:3600"}
    found["by proxy"] = _status("http://orders.shop.svc.cluster.local/", proxy)
    found["by proxy, a stranger"] = _status("http://legacy.shop.svc.cluster.local/", proxy)
    return found


URLS = (
    "http://orders/",
    "http://orders.shop/",
    "http://orders.shop.svc/",
    "http://orders.shop.svc.cluster.local:8080/",
    "http://v1.orders.mesh/",
    "http://v7.orders.mesh/",
)
NAMES = ("orders", "legacy", "orders.other", "outside.example", "v1.orders.mesh", "nobody.mesh", "nobody.example")


def _status(url: str, proxy: dict[str, str] | None = None, **headers: str) -> str:
    """Of a GET by the system's own resolver."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxy or {}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.headers.get('Meshq-Error', '')}"
    except OSError as error:
        return type(getattr(error, "reason", error)).__name__


def _address(name: str) -> str:
    try:
        return " ".join(sorted({str(found[4][0]) for found in socket.getaddrinfo(name, 80, socket.AF_INET)}))
    except socket.gaierror:
        return "none"


# --- the pod ----------------------------------------------------------------------------------------------------------------------


def _pair(folder: Path, app_port: int) -> ServerProcess:
    both = {"MESHQ_SERVICE_VERSION": "1.0.0", "MESHQ_BROKER_URL": "embedded:", "MESHQ_REGISTRY_URL": "embedded:"}
    pod = both | {
        "MESHQ_SERVICE": "app",
        "MESHQ_DNS_PORT": "53",
        "MESHQ_DNS_CAPTURE": "1",
        "MESHQ_HOST_PORTS": "80,8080",
    }
    orders = both | {
        "MESHQ_SERVICE": "orders",
        "MESHQ_APP_PORT": str(app_port),
        "MESHQ_PORT": "3700",
        "MESHQ_ADMIN_PORT": "3701",
        "MESHQ_DNS_PORT": "3702",
    }
    named = {f"CALLED_{name}": value for name, value in orders.items()}
    command = [sys.executable, "-m", "tests.e2e.embedded_pair"]
    return ServerProcess(command, folder / "pair.log", environment(pod | named))


def _cluster_dns() -> None:
    upstream = Upstream(_in_cluster)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taking:
        taking.bind((CLUSTER_DNS, 53))
        while True:
            packet, client = taking.recvfrom(4096)
            for answer in upstream.take(packet, False):
                taking.sendto(answer, client)


def _in_cluster(query: dns.message.Message, tcp: bool) -> list[bytes]:
    address = IN_CLUSTER.get(query.question[0].name.to_text().lower())
    if address is not None and query.question[0].rdtype == 1:
        return good(query, tcp, texts=(address,))
    answer = dns.message.make_response(query)
    answer.set_rcode(dns.rcode.NOERROR if address else dns.rcode.NXDOMAIN)
    return [answer.to_wire()]


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
