"""The app's calls out: steps 2 to 6 of DESIGN part 3. Four ways in, one behaviour behind them (INTERFACE part 3)."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hmac import compare_digest
from urllib.parse import urlsplit

from meshq.calling import Caller
from meshq.core.callreq import PATH_PREFIX, read_call, split_path
from meshq.core.errors import Code, Problem, Refused, refuse
from meshq.core.headers import Carried, carry
from meshq.core.hosts import Whose, is_foreign, read_host
from meshq.core.names import bare_host
from meshq.core.selectors import Address
from meshq.ports import Exchange
from meshq.sending import Sender

Api = Callable[[Exchange, Carried, bytes], None]
"""Answers what is under /v1/ besides calls: what `carry` made of the fields, and the target. May raise Refused."""
Forward = Callable[[Exchange, str, int, bytes], None]
"""Answers from a host outside the mesh: host, port, origin-form target."""
Captured = Callable[[str], str | None]
"""From a host name outside the mesh's domain (lower case) to the service that is called so all the same (MESHQ_DNS_CAPTURE)."""


class Route:
    """By which way a request came in, as metrics call it."""

    PATH = "/v1/call/{address}/{path}"
    HOST = "host"
    PROXY = "proxy"
    PORT = "port"


class Outbound:
    """`handle` is for port 3600, `handle_intercepted` for the ports of MESHQ_INTERCEPT, `handle_named` for those of
    MESHQ_HOST_PORTS."""

    def __init__(
        self,
        caller: Caller,
        sender: Sender,
        api: Api,
        forward: Forward,
        *,
        domain: str,
        token: str,
        intercept: Mapping[int, Address],
        passthrough: tuple[str, ...],
        captured: Captured = lambda host: None,
    ) -> None:
        self._caller = caller
        self._sender = sender
        self._api = api
        self._forward = forward
        self._domain = domain
        self._token = token.encode()
        self._intercept = dict(intercept)
        self._passthrough = frozenset(passthrough)
        self._captured = captured
        # The same few hosts and origins come again and again.
        self._read_host = lru_cache(maxsize=1024)(read_host)
        self._is_foreign = lru_cache(maxsize=1024)(is_foreign)

    def handle(self, exchange: Exchange) -> None:
        try:
            self._handle(exchange)
        except Refused as refused:
            exchange.respond(refused.problem.as_response())

    def handle_intercepted(self, port: int) -> Callable[[Exchange], None]:
        address = self._intercept[port]

        def handle(exchange: Exchange) -> None:
            request = exchange.request
            try:
                if request.method == b"CONNECT":
                    raise refuse(Code.MISDIRECTED, "this port is a service of the mesh, not a proxy")
                target = request.target
                if not target.startswith(b"/") and target != b"*":
                    target = _origin_form(target)
                carried = carry(request.headers)
                self._check_origin(carried)
                self._call(exchange, carried, address, target, None, Route.PORT)
            except Refused as refused:
                exchange.respond(refused.problem.as_response())

        return handle

    def handle_named(self, exchange: Exchange) -> None:
        """By Host alone: only names of services are served here, never this sidecar's own API. Nothing needs a token, because
        these are an unmodified app's own URLs; a page from elsewhere may not call all the same."""
        request = exchange.request
        try:
            if request.method == b"CONNECT":
                raise refuse(Code.MISDIRECTED, "CONNECT is not served: the mesh carries HTTP requests, not connections")
            carried = carry(request.headers)
            self._check_origin(carried)
            target, host = request.target, carried.noted.get(b"host", b"").decode("latin-1")
            if not target.startswith(b"/") and target != b"*":
                host, target = _authority(target), _origin_form(target)
            whose = self._whose(host)
            if not isinstance(whose, Address):
                raise refuse(
                    Code.MISDIRECTED, f"{_shown(host)} is not a host of the mesh: use a name under .{self._domain}"
                )
            self._call(exchange, carried, whose, target, None, Route.HOST)
        except Refused as refused:
            exchange.respond(refused.problem.as_response())

    def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        target = request.target
        if request.method == b"CONNECT":
            raise refuse(Code.MISDIRECTED, "CONNECT is not served: the mesh carries HTTP requests, not connections")
        carried = carry(request.headers)
        self._check_caller(carried)
        if target.startswith(b"/") or target == b"*":
            self._by_host(exchange, carried, target)
        else:
            self._by_proxy(exchange, carried, target)

    def _by_host(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        host = carried.noted.get(b"host") or b"localhost"
        whose = self._whose(host.decode("latin-1"))
        if isinstance(whose, Address):
            self._call(exchange, carried, whose, target, None, Route.HOST)
        elif whose is Whose.LOCAL:
            self._local(exchange, carried, target)
        else:
            raise refuse(
                Code.MISDIRECTED,
                f"{_shown(host.decode('latin-1'))} is not a host of the mesh: use a name under .{self._domain}, or {PATH_PREFIX.decode()}<address>/",
            )

    def _by_proxy(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """An absolute-form target: its authority says where to (the server has checked that Host says the same)."""
        try:
            url = urlsplit(target.decode("latin-1"))
            name, port = url.hostname or "", url.port or 80
        except ValueError as error:
            raise refuse(Code.BAD_REQUEST, f"the target is not a URL: {error}") from error
        if url.scheme != "http":
            raise refuse(Code.MISDIRECTED, f"only http:// is served here, not {url.scheme[:20]}://")
        if {name, f"{name}:{port}"} & self._passthrough:
            self._forward(exchange, name, port, _origin_form(target))
            return
        whose = self._whose(url.netloc)
        if isinstance(whose, Address):
            self._call(exchange, carried, whose, _origin_form(target), None, Route.PROXY)
        elif whose is Whose.LOCAL:
            self._local(exchange, carried, _origin_form(target))
        else:
            raise refuse(
                Code.MISDIRECTED,
                f"{name[:100]!r} is outside the mesh and MESHQ_PASSTHROUGH does not name it; put it into NO_PROXY, or name it there",
            )

    def _local(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        if target.startswith(PATH_PREFIX):
            address, path = split_path(target)
            host = f"{address.service}.{self._domain}".encode()
            self._call(exchange, carried, address, path, host, Route.PATH)
        else:
            self._api(exchange, carried, target)

    def _call(
        self, exchange: Exchange, carried: Carried, address: Address, target: bytes, host: bytes | None, route: str
    ) -> None:
        call = read_call(exchange.request, address, target, host, carried, route)
        send = self._caller.call if call.durable is None else self._sender.send
        exchange.on_hangup(send(call, exchange.respond))

    def _check_caller(self, carried: Carried) -> None:
        """Neither a web page from elsewhere nor somebody without the token may speak here (research, D.5)."""
        self._check_origin(carried)
        if self._token and not compare_digest(carried.control.get(b"meshq-token", b""), self._token):
            raise Refused(Problem(Code.DENIED, "MESHQ_API_TOKEN is set here: send it as Meshq-Token"))

    def _check_origin(self, carried: Carried) -> None:
        if (noted := carried.noted.get(b"origin")) is None:
            return
        origin = noted.decode("latin-1")
        scheme, _, host = origin.partition("://")
        if self._is_foreign(origin, self._domain) and not (scheme == "http" and self._named(host)):
            raise Refused(Problem(Code.DENIED, f"a page of {_shown(origin)} may not call the sidecar"))

    def _whose(self, host: str) -> Address | Whose:
        """By a Host field. Raises Refused."""
        whose = self._read_host(host, self._domain)
        service = self._named(host) if whose is Whose.STRANGER else None
        return whose if service is None else Address(service, None)

    def _named(self, host: str) -> str | None:
        name = bare_host(host)
        return None if name is None else self._captured(name)


def _origin_form(target: bytes) -> bytes:
    """`http://host/path?query` -> `/path?query`, not a byte of it changed."""
    rest = target[target.find(b"://") + 3 :]
    ends = [at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0]
    path = rest[min(ends, default=len(rest)) :]
    return path if path.startswith(b"/") else b"/" + path


def _authority(target: bytes) -> str:
    """`http://host:80/path` -> `host:80`. Raises Refused."""
    try:
        url = urlsplit(target.decode("latin-1"))
    except ValueError as error:
        raise refuse(Code.BAD_REQUEST, f"the target is not a URL: {error}") from error
    if url.scheme != "http":
        raise refuse(Code.MISDIRECTED, f"only http:// is served here, not {url.scheme[:20]}://")
    return url.netloc


def _shown(value: str) -> str:
    return repr(value[:100])
