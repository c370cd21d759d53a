"""Where a server is, as its URL names it."""


def parse_server(text: str, default_port: int) -> tuple[str, int]:
    """`rabbit-0`, `rabbit-0:5672`, `[::1]:5672` -> host and port. Raises ValueError, which repeats nothing of `text`: behind a password
    with a / in it, it is a part of the password."""
    if text.startswith("["):
        name, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = text.partition(":")
    if not name or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise ValueError("a host or its port cannot be")
    return name, int(port) if port else default_port
