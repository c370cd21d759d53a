"""Random bytes for ids and traces."""

import os

PAGE = 4096


class Randomness:
    """Fetched from the system a page at a time: a system call for each id would cost more than the rest of its message."""

    def __init__(self) -> None:
        self._page = b""

    def __call__(self, size: int) -> bytes:
        """`size` random bytes, at most PAGE."""
        if len(self._page) < size:
            self._page = os.urandom(PAGE)
        taken, self._page = self._page[:size], self._page[size:]
        return taken
