"""How the command line reaches a mesh: through a control API, or directly through broker and registry (INTERFACE part 9).

In this order: --control or MESHQ_CONTROL_URL; MESHQ_BROKER_URL and MESHQ_REGISTRY_URL; the dev mesh that runs in this folder
or one above it; a control API on its usual port on this machine.

The operators' token (MESHQ_API_TOKEN) goes only to a control API whose URL was given: on a port that was guessed, and in a file that
was found on the way up, others may have put theirs.
"""

import http.client
import ipaddress
import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from meshq.cli.exits import BAD_SETTINGS, leave
from meshq.control import USUAL
from meshq.core.events import EventAddress
from meshq.core.http import Headers, HttpRequest, HttpResponse, header
from meshq.settings import BadSettings

SECONDS = 10.0
"""The longest that a question about the mesh may take."""
PUBLISH_SECONDS = 45.0
"""The same for an event: a broker that elects gets half a minute to confirm."""


class Away(Exception):
    """The mesh cannot be reached; the message says what to do."""


class Failed(Exception):
    """The mesh was reached and could not answer; the message says why. `body` is the JSON of that answer."""

    def __init__(self, said: str, status: int = 0, body: Any = None) -> None:
        super().__init__(said)
        self.status = status
        self.body = body


class Reach(Protocol):
    """A way to a mesh. Every method may raise Away and Failed; `get` gives the JSON of the control API's path."""

    def get(self, path: str, query: Mapping[str, str]) -> Any: ...
    def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        """One request to the control API, which answered it well."""

    def call(self, request: HttpRequest, address: str, timeout: float) -> HttpResponse:
        """One call; `request.target` is the path at the app."""

    def publish(self, request: HttpRequest, event: EventAddress) -> HttpResponse:
        """One event or a batch; `request.target` is not looked at."""

    def wait(self, seconds: float) -> None: ...
    def close(self) -> None: ...


def choose(control: str | None) -> Reach:
    """Raises Away when there is no way; exits with 64 when what leads there makes no sense."""
    environment = os.environ
    control = control or environment.get("MESHQ_CONTROL_URL") or None
    if control is not None:
        if urlsplit(control).scheme in ("http", "https"):
            token = environment.get("MESHQ_API_TOKEN", "")
            return ControlApi(control, f"the control API at {control}", token)
        return _dev_mesh(Path(control))
    if environment.get("MESHQ_BROKER_URL") or environment.get("MESHQ_REGISTRY_URL"):
        return _direct(environment)
    return _dev_mesh(None)


def _dev_mesh(folder: Path | None) -> Reach:
    from meshq.dev.state import FILE, find

    found = find((folder or Path.cwd()).resolve())
    if found.running is not None and found.folder is not None:
        _check_ours(found.running.control, found.folder / FILE)
        return ControlApi(found.running.control, f"the dev mesh of {found.running.file}")
    if folder is None and _is_control_api(USUAL):
        return ControlApi(USUAL, f"the control API at {USUAL}")
    where = f"in {folder} or above" if folder is not None else "in this folder or above"
    raise Away(
        f"no dev mesh runs {where} (start one with `meshq dev`), and neither --control, MESHQ_CONTROL_URL nor MESHQ_BROKER_URL "
        f"with MESHQ_REGISTRY_URL names another mesh{'; ' + found.hint if found.hint else ''}"
    )


def _check_ours(url: str, file: Path) -> None:
    """Any folder above may be another user's, and its file name any place. Raises Away."""
    with suppress(OSError):
        if _is_loopback(url) and _is_of_this_user(file):
            return
    raise Away(
        f"{file} is not of this user, or names a control API that is not on this machine: if it is to be trusted, give "
        "the URL with --control or MESHQ_CONTROL_URL"
    )


def _is_of_this_user(file: Path) -> bool:
    """Raises OSError."""
    return file.stat().st_uid == os.geteuid()


def _is_loopback(url: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    return False


def _is_control_api(url: str) -> bool:
    with suppress(Away, Failed):
        return "meshq" in ControlApi(url, url).get("/v1/status", {})
    return False


def _direct(environment: Mapping[str, str]) -> Reach:
    broker, registry = environment.get("MESHQ_BROKER_URL", ""), environment.get("MESHQ_REGISTRY_URL", "")
    if "embedded" in (broker.rstrip(":"), registry.rstrip(":")):
        leave(
            BAD_SETTINGS,
            "MESHQ_BROKER_URL or MESHQ_REGISTRY_URL is embedded:, which lives inside one process: unset it, and the running "
            "dev mesh is found by itself",
        )
    from meshq.cli.direct import Direct

    try:
        return Direct(broker, registry, environment)
    except BadSettings as bad:
        leave(BAD_SETTINGS, *map(str, bad.faults))


def get(path: str, query: Mapping[str, str]) -> HttpRequest:
    target = f"{path}?{urlencode(query)}" if query else path
    return HttpRequest(b"GET", target.encode(), [], None)


def with_token(headers: Headers, token: str) -> Headers:
    """With the operators' token, if there is one; another that is given stays."""
    if not token or header(headers, b"meshq-token") is not None:
        return headers
    return [*headers, (b"Meshq-Token", token.encode())]


def checked(response: HttpResponse, what: str) -> HttpResponse:
    """A good answer of a control API, `what`. Raises Away and Failed for another."""
    if response.status == 204:
        return response
    try:
        body = json.loads(response.body)
    except ValueError:
        raise Away(f"what answers for {what} is not a control API of meshq") from None
    if 200 <= response.status < 300:
        return response
    said = str(body.get("detail", response.status)) if isinstance(body, dict) else str(response.status)
    raise Away(f"{what}: {said}" if what else said) if response.status == 503 else Failed(said, response.status, body)


class ControlApi:
    """Reach through the control API at `url`; `what` is how messages call it. `token` is the operators', "" to send none."""

    def __init__(self, url: str, what: str, token: str = "") -> None:
        self._url = urlsplit(url)
        self._what = what
        self._token = token

    def get(self, path: str, query: Mapping[str, str]) -> Any:
        return json.loads(self.ask(get(path, query), SECONDS).body)

    def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        # No web page and no fetched URL can send this header: whoever does means what he asks for.
        response = self._ask(request._replace(headers=[*request.headers, (b"Meshq-Api", b"1")]), timeout)
        try:
            return checked(response, self._what)
        except Failed as failed:
            if failed.status == 403 and not self._token and os.environ.get("MESHQ_API_TOKEN"):
                said = f"{failed}; MESHQ_API_TOKEN is sent only to the URL that --control or MESHQ_CONTROL_URL gives"
                raise Failed(said, failed.status, failed.body) from failed
            raise

    def call(self, request: HttpRequest, address: str, timeout: float) -> HttpResponse:
        from urllib.parse import quote

        target = f"/v1/call/{quote(address, safe='@,=~^')}".encode() + request.target
        return self._ask(request._replace(target=target), timeout + SECONDS)

    def publish(self, request: HttpRequest, event: EventAddress) -> HttpResponse:
        return self._ask(request._replace(target=f"/v1/publish/{event}".encode()), PUBLISH_SECONDS)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        """Each question has a connection of its own."""

    def _ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        url = self._url
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        try:
            connection = kind(url.hostname or "", url.port, timeout=timeout)
            try:
                target = url.path.rstrip("/").encode() + request.target
                connection.putrequest(request.method.decode(), target.decode("latin-1"), skip_accept_encoding=True)
                for name, value in with_token(request.headers, self._token):
                    connection.putheader(name, value)
                if request.body is not None:
                    connection.putheader("Content-Length", str(len(request.body)))
                connection.endheaders(request.body)
                answer = connection.getresponse()
                headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in answer.getheaders()]
                return HttpResponse(answer.status, headers, answer.read())
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = "it does not answer" if isinstance(error, socket.timeout) else str(error)
            raise Away(f"{self._what} cannot be reached ({said}): is it running?") from error
