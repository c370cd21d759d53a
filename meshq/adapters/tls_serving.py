"""TLS of our own servers, from files: who we are, and by whom our clients have to be known."""

import ssl
from pathlib import Path
from typing import NamedTuple


class Files(NamedTuple):
    """PEM files."""

    cert: Path
    """With the certificates between it and its authority, where there are such."""
    key: Path
    client_ca: Path | None = None
    """Clients need a certificate of this authority; None: they need none."""


class Served(NamedTuple):
    """What was in Files, checked."""

    context: ssl.SSLContext
    cert: bytes
    key: bytes
    client_ca: bytes | None


def load(files: Files) -> Served:
    """Raises OSError with a sentence that says which file is wrong and how."""
    cert, key = _read(files.cert), _read(files.key)
    client_ca = None if files.client_ca is None else _read(files.client_ca)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        # With "" a key that is encrypted is a fault; without it OpenSSL would ask for its password at the terminal.
        made.load_cert_chain(files.cert, files.key, "")
    except ssl.SSLError as error:
        raise OSError(f"{files.cert} and {files.key} are not a certificate and its key in PEM: {error}") from error
    if files.client_ca is not None:
        try:
            made.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise OSError(f"{files.client_ca} holds no certificates in PEM: {error}") from error
        made.verify_mode = ssl.CERT_REQUIRED
    return Served(made, cert, key, client_ca)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise OSError(f"{file} cannot be read: {error.strerror}") from error
