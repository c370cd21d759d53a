"""Tokens with which containers that have no sidecar register: each is good for one service of one mesh.

A token is HMAC-SHA256 of mesh and service under the secret of the control API, so nothing has to be kept of those that were
given out, and every replica that has the secret knows them. It is good for as long as the secret is.
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256

MIN_SECRET = 16
"""Characters. Whoever has one token can try secrets against it as fast as he can compute."""


def parse_secrets(text: str) -> tuple[str, ...]:
    """Of `MESHQ_CONTROL_SECRET`: several, separated by commas, while one takes the place of another. Raises ValueError."""
    secrets = tuple(secret for part in text.split(",") if (secret := part.strip()))
    if any(len(secret) < MIN_SECRET for secret in secrets):
        raise ValueError(f"a secret has at least {MIN_SECRET} characters, such as those of `openssl rand -hex 32`")
    return secrets


class Tokens:
    """`secrets`: the first makes tokens, all of them are taken. None: nobody can register."""

    def __init__(self, mesh: str, secrets: Sequence[str]) -> None:
        self._mesh = mesh
        self._secrets = tuple(secrets)

    @property
    def configured(self) -> bool:
        return bool(self._secrets)

    def make(self, service: str) -> str:
        """64 hexadecimal digits. There must be a secret."""
        return _token(self._secrets[0], self._mesh, service)

    def is_good(self, service: str, given: bytes) -> bool:
        # All of them, whatever comes of the first: how long it takes tells nothing.
        matches = [hmac.compare_digest(_token(s, self._mesh, service).encode(), given) for s in self._secrets]
        return any(matches)


def _token(secret: str, mesh: str, service: str) -> str:
    return hmac.new(secret.encode(), f"meshq registration\0{mesh}\0{service}".encode(), sha256).hexdigest()
