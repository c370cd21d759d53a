"""Who may ask a control API what.

On loopback everybody on this machine may do everything, and no web page: a request says localhost in its Host, and what changes
something has the header `Meshq-Api: 1`, or the operators' token (MESHQ_API_TOKEN) where there is one. Beyond loopback only
looking at services, instances, routes, queues and the state of the mesh is free; calls, events, dead letters (which hold bodies
of messages) and every change need the operators' token, and are refused to all where there is none. Registrations need the
token of their service, wherever the control API listens.
"""

import hmac
import ipaddress
from dataclasses import dataclass
from enum import Enum

from meshq.control.registration_api import is_registration
from meshq.core.callreq import PATH_PREFIX
from meshq.core.errors import Code, refuse
from meshq.core.hosts import Whose, is_foreign, read_host
from meshq.core.http import HttpRequest, header
from meshq.core.names import bare_host
from meshq.sending_events import PATH_PREFIX as PUBLISH_PREFIX

READS = (b"GET", b"HEAD")

_USED = (PATH_PREFIX, PUBLISH_PREFIX, b"/v1/dead")
_CHANGED = (b"/v1/dead/", b"/v1/logs/", b"/v1/routes/", b"/v1/instances/", b"/v1/retire/")


class Need(Enum):
    """What a request has to show."""

    NOTHING = "nothing"
    OPERATOR = "operator"  # to use the mesh in the operators' name
    MEANT = "meant"  # to change it; no web page may make somebody do that
    SERVICE = "service"  # checked by control/registration_api.py


def need(request: HttpRequest) -> Need:
    target, reading = request.target, request.method in READS
    if target.startswith(_CHANGED) and not reading:
        return Need.MEANT
    if target.startswith(_USED):
        return Need.OPERATOR
    if not reading and is_registration(target.decode("latin-1").partition("?")[0]):
        return Need.SERVICE
    return Need.NOTHING


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one control API."""

    domain: str
    beyond_loopback: bool = False
    """It listens where others than this machine reach it."""
    hosts: frozenset[str] = frozenset()
    """Names it is called by, besides localhost."""
    operator_token: str = ""

    def check(self, request: HttpRequest) -> None:
        """Raises Refused."""
        self._check_host(request)
        wanted = need(request)
        if wanted in (Need.OPERATOR, Need.MEANT):
            self._check_operator(request, wanted)

    def _check_host(self, request: HttpRequest) -> None:
        """Only who means this machine by its Host, and no web page from elsewhere: as on a sidecar's port."""
        host = (header(request.headers, b"host") or b"localhost").decode("latin-1")
        if not request.target.startswith(b"/") or not self._is_here(host):
            names = ", ".join(["localhost", *sorted(self.hosts)])
            raise refuse(
                Code.MISDIRECTED,
                f"{host[:100]!r} is not here: the control API is asked as {names} (--allow-host adds a name)",
            )
        origin = header(request.headers, b"origin")
        if origin is not None and self._is_foreign(origin.decode("latin-1")):
            raise refuse(Code.DENIED, f"a page of {origin[:100].decode('latin-1')!r} may not ask the control API")

    def _is_here(self, host: str) -> bool:
        name = bare_host(host)
        if name is not None and (name in self.hosts or (self.beyond_loopback and _is_address(name))):
            return True  # a page that was led here by a name of its own has that name in Host, never an address
        return read_host(host, self.domain) is Whose.LOCAL

    def _is_foreign(self, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        return not (scheme in ("http", "https") and bare_host(host) in self.hosts) and is_foreign(origin, self.domain)

    def _check_operator(self, request: HttpRequest, wanted: Need) -> None:
        if self.operator_token:
            given = header(request.headers, b"meshq-token") or b""
            if not hmac.compare_digest(given, self.operator_token.encode()):
                raise refuse(Code.DENIED, "this needs the operators' token in Meshq-Token (MESHQ_API_TOKEN)")
        elif self.beyond_loopback:
            raise refuse(
                Code.DENIED,
                "this control API listens beyond its own machine and has no MESHQ_API_TOKEN, so it can only be looked at: "
                "set one, and send it in Meshq-Token",
            )
        elif wanted is Need.MEANT and header(request.headers, b"meshq-api") != b"1":
            raise refuse(Code.DENIED, "what changes something needs the header Meshq-Api: 1")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
