"""The app in a container: `/relay/<address>/<path>` calls through its sidecar, anything else answers who it is."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import urlopen

RELAY = "/relay/"


class App(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith(RELAY):
            self._relay(self.path.removeprefix(RELAY))
        else:
            seen = {name: value for name, value in self.headers.items() if name.startswith("Meshq-")}
            answer = {"service": os.environ["SERVICE"], "path": self.path, "headers": seen}
            self._answer(200, json.dumps(answer).encode(), {})

    def _relay(self, rest: str) -> None:
        try:
            with urlopen(f"http://localhost:3600/v1/call/{rest}", timeout=30) as response:
                headers = {"Meshq-Served-By": response.headers.get("Meshq-Served-By", "")}
                self._answer(response.status, response.read(), headers)
        except HTTPError as error:
            self._answer(error.code, error.read(), {"Meshq-Error": error.headers.get("Meshq-Error", "")})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8000), App).serve_forever()
