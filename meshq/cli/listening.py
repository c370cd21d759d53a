"""The address that a server is told to listen on."""

import ipaddress

import typer


def listen_address(text: str) -> str:
    """For an option's callback."""
    try:
        if text != "localhost":
            ipaddress.ip_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an address such as 127.0.0.1, 0.0.0.0 or ::") from error
    return text
