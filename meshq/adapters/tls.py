"""The TLS context for the broker and the registry, from files that may be renewed while we run."""

import ssl
from pathlib import Path


def context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Server certificates are checked against `ca`, by default the system's authorities; `cert` and `key` say who we are.
    Raises OSError for a file that cannot be read, ssl.SSLError for one that holds no certificate or another's key."""
    made = ssl.create_default_context(cafile=None if ca is None else str(ca))
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        made.load_cert_chain(str(cert), None if key is None else str(key))
    return made
