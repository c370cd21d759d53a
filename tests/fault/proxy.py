"""A TCP proxy on loopback that breaks connections in the middle of what goes through them."""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tests.servers.processes import LOOPBACK


class Proxy:
    """One listening port for one target. Threads end with `close`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._cut_in: dict[bool, int] = {}
        """By whether it is outward, to the target."""
        self.cuts = 0
        self._start(self._accept)

    def cut_after(self, count: int, *, back: bool = False) -> None:
        """Reset the next connection over which `count` more bytes went to the target, when they did: the target gets what came
        before and then a reset, whatever frame it was in the middle of. `back`: count what comes from the target."""
        with self._lock:
            self._cut_in[not back] = count

    def close(self) -> None:
        # A listener that is only closed goes on accepting while a thread waits in it.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            pairs, self._open = self._open, []
        for pair in pairs:
            _reset(*pair)
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._lock:
                self._open.append(pair)
            self._start(self._pump, client, server, pair, True)
            self._start(self._pump, server, client, pair, False)

    def _pump(
        self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket], outward: bool
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                allowed = self._allowed(len(data), outward)
                if allowed is not None:
                    sink.sendall(data[:allowed])
                    break
                sink.sendall(data)
        _reset(*pair)
        with self._lock:
            if pair in self._open:
                self._open.remove(pair)

    def _allowed(self, size: int, outward: bool) -> int | None:
        """How many of these bytes still pass before the cut; None: all of them, and no cut."""
        with self._lock:
            left = self._cut_in.get(outward)
            if left is None:
                return None
            if left >= size:
                self._cut_in[outward] -= size
                return None
            self.cuts += 1
            return self._cut_in.pop(outward)


def _reset(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            # Closing with no time to linger sends a reset instead of an orderly end.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            each.close()


@contextmanager
def proxies(targets: Sequence[tuple[str, int]]) -> Iterator[list[Proxy]]:
    found = [Proxy(target) for target in targets]
    try:
        yield found
    finally:
        for proxy in found:
            proxy.close()
