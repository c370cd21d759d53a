"""The URL of a Redis taken apart: one server, a master that Sentinels know, or a cluster."""

from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qsl, unquote, urlsplit

from meshq.core.server_address import parse_server

PORT = 6379
SENTINEL_PORT = 26379
VARIABLE = "MESHQ_REGISTRY_URL"

Address = tuple[str, int]


class Kind(Enum):
    SERVER = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


FORMS = {
    Kind.SERVER: "redis://host:6379/0",
    Kind.SENTINEL: "redis+sentinel://host1,host2,host3/name/0",
    Kind.CLUSTER: "redis+cluster://host1,host2,host3",
}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    kind: Kind
    tls: bool
    hosts: tuple[Address, ...]
    """Of the server, of Sentinels, or of some servers of the cluster."""
    user: str = ""
    password: str = ""
    db: int = 0
    master: str = ""
    """SENTINEL: the name that the Sentinels know the master by."""
    sentinel_user: str = ""
    sentinel_password: str = ""
    """Of the Sentinels themselves. Where they ask for a password and none is given here, `user` and `password` are tried."""

    @property
    def where(self) -> str:
        """For messages: without the password."""
        hosts = ", ".join(shown(host) for host in self.hosts)
        match self.kind:
            case Kind.SENTINEL:
                return f"{self.master!r} of the Sentinels at {hosts}"
            case Kind.CLUSTER:
                return f"the cluster at {hosts}"
            case Kind.SERVER:
                return hosts


def shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(url: str) -> RedisUrl:
    """`redis://[user:password@]host[:port][/db]`, `redis+sentinel://[user:password@]host[:port],.../name[/db]` with
    `?sentinel_user=` and `?sentinel_password=` where they have their own, `redis+cluster://[user:password@]host[:port],...`; with
    `rediss` for TLS. Raises ValueError, which repeats nothing of what was given: there may be a password anywhere in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _bad_host() from None
    tls = parts.scheme.startswith("rediss")
    try:
        kind = Kind(parts.scheme.replace("rediss", "redis", 1))
    except ValueError:
        raise ValueError(
            f"the registry's URL has no scheme of Redis: give {', '.join(FORMS.values())}, or rediss for TLS"
        ) from None
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    path = [unquote(part) for part in parts.path.split("/") if part]
    master = path.pop(0) if kind is Kind.SENTINEL and path else ""
    if kind is Kind.SENTINEL and not master:
        raise ValueError(f"the registry's URL does not name the master: give {FORMS[kind]}")
    default = SENTINEL_PORT if kind is Kind.SENTINEL else PORT
    found = tuple(_host(host, default) for host in (hosts or "localhost").split(","))
    if kind is Kind.SERVER and len(found) > 1:
        raise ValueError(
            "the registry's URL may name one host with redis://; for several give redis+sentinel:// or redis+cluster://"
        )
    if parts.fragment:
        raise _bad_host()
    query = _query(parts.query, kind)
    return RedisUrl(
        kind,
        tls,
        found,
        unquote(user),
        unquote(password),
        _db(path, kind),
        master,
        query.get("sentinel_user", ""),
        query.get("sentinel_password", ""),
    )


def _host(text: str, default: int) -> Address:
    try:
        return parse_server(text, default)
    except ValueError:
        raise _bad_host() from None


def _bad_host() -> ValueError:
    return ValueError(
        "the registry's URL has a host that cannot be: give hosts such as redis-0 or redis-0:6379, and write / ? # @ : [ in user "
        "and password as %2F %3F %23 %40 %3A %5B"
    )


def _query(text: str, kind: Kind) -> dict[str, str]:
    found = dict(parse_qsl(text, keep_blank_values=True))
    allowed = {"sentinel_user", "sentinel_password"} if kind is Kind.SENTINEL else set()
    if not found.keys() <= allowed:
        raise ValueError(
            "in the registry's URL only sentinel_user and sentinel_password of redis+sentinel:// may follow a ?; certificates for "
            "TLS are files: MESHQ_TLS_CA, MESHQ_TLS_CERT, MESHQ_TLS_KEY"
        )
    return found


def _db(path: list[str], kind: Kind) -> int:
    if not path:
        return 0
    if len(path) > 1 or not (path[0].isascii() and path[0].isdigit()):
        raise ValueError(
            f"what follows the last / of the registry's URL is the number of a database: give {FORMS[kind]}"
        )
    if kind is Kind.CLUSTER and int(path[0]):
        raise ValueError(f"the registry's URL may name no database of a cluster but 0: give {FORMS[kind]}")
    return int(path[0])
