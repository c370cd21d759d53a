"""RabbitMQ's management HTTP API, as far as the tests need it."""

import base64
import http.client
import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote


class Refused(RuntimeError):
    """The API answered with a status that is no success."""

    def __init__(self, status: int, method: str, path: str, body: str) -> None:
        super().__init__(f"{method} {path}: {status} {body[:500]}")
        self.status = status


class Management:
    """The API of a cluster: whichever node answers first. Environment proxies are not for loopback, so none is used."""

    def __init__(self, addresses: Sequence[tuple[str, int]], user: str = "guest", password: str = "guest") -> None:
        self.addresses = tuple(addresses)
        self._user = (user, password)
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}

    def at(self, host: str, port: int) -> "Management":
        """The same of one node."""
        return Management([(host, port)], *self._user)

    def request(self, method: str, path: str, body: object = None, timeout: float = 30) -> Any:
        """Send to `/api/<path>`; returns the decoded answer, None for an empty one. Raises Refused, and OSError when no
        node answers."""
        fault: OSError = OSError("this cluster has no management address")
        for host, port in self.addresses:
            try:
                return self._request(host, port, method, f"/api/{path}", body, timeout)
            except (OSError, http.client.HTTPException) as error:
                fault = error if isinstance(error, OSError) else OSError(str(error))
        raise fault

    def _request(self, host: str, port: int, method: str, path: str, body: object, timeout: float) -> Any:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, self._headers)
            response = connection.getresponse()
            answer = response.read().decode()
        finally:
            connection.close()
        if response.status >= 300:
            raise Refused(response.status, method, path, answer)
        return json.loads(answer) if answer else None

    def answers(self, path: str, timeout: float = 5) -> bool:
        """Whether a GET of `/api/<path>` succeeds; for health checks."""
        try:
            self.request("GET", path, timeout=timeout)
        except (OSError, Refused):
            return False
        return True

    def create_vhost(self, name: str, user: str) -> None:
        self.request("PUT", f"vhosts/{_q(name)}", {})
        self.permit(name, user, (".*", ".*", ".*"))

    def delete_vhost(self, name: str) -> None:
        self.request("DELETE", f"vhosts/{_q(name)}", timeout=60)

    def create_user(self, name: str, password: str) -> None:
        self.request("PUT", f"users/{_q(name)}", {"password": password, "tags": ""})

    def delete_user(self, name: str) -> None:
        self.request("DELETE", f"users/{_q(name)}")

    def permit(self, vhost: str, user: str, permissions: tuple[str, str, str]) -> None:
        """`permissions` are the expressions for configure, write, read."""
        configure, write, read = permissions
        self.request(
            "PUT", f"permissions/{_q(vhost)}/{_q(user)}", {"configure": configure, "write": write, "read": read}
        )

    def permit_topic(self, vhost: str, user: str, exchange: str, write: str, read: str) -> None:
        self.request(
            "PUT",
            f"topic-permissions/{_q(vhost)}/{_q(user)}",
            {"exchange": exchange, "write": write, "read": read},
        )

    def queues(self, vhost: str) -> list[dict[str, Any]]:
        """Every queue of `vhost` as the API shows it. Counts are as of the last collection, a second or so ago."""
        found: list[dict[str, Any]] = self.request("GET", f"queues/{_q(vhost)}")
        return found

    def definitions(self, vhost: str) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", f"definitions/{_q(vhost)}")
        return found

    def import_definitions(self, vhost: str, definitions: object) -> None:
        self.request("POST", f"definitions/{_q(vhost)}", definitions, timeout=60)


def _q(text: str) -> str:
    return quote(text, safe="")


def unique(prefix: str) -> str:
    """A name that no earlier run used, on a server that outlives this one too."""
    return f"{prefix}-{time.time_ns():x}"
