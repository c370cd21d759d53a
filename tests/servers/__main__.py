"""`python -m tests.servers`: say where the tests' RabbitMQ and Redis come from; as root on Debian, install what is missing.
With `--installed`, install them there even where containers would do, so that every run is on the same ones."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import faketime, rabbitmq, redis
from tests.servers.find import RABBITMQ_URL, REDIS_URL, rabbitmq_source, redis_source

NEEDS: tuple[tuple[str, str, str, Callable[[], str | None], Callable[[], object]], ...] = (
    ("RabbitMQ", "rabbitmq-server", RABBITMQ_URL, rabbitmq_source, rabbitmq.installed),
    ("Redis", "redis-server", REDIS_URL, redis_source, redis.installed),
)
"""Each with its Debian package, the variable that names a running one, where it would come from, and what is installed."""


TOOLS: tuple[tuple[str, Callable[[], str | None]], ...] = (
    ("iptables", lambda: shutil.which("iptables")),
    ("libfaketime", faketime.library),
    ("openssl", lambda: shutil.which("openssl")),
)
"""Debian packages that single tests need, and where what they bring is found. Those tests fail without."""


def main(arguments: list[str]) -> int:
    wants_installed = "--installed" in arguments and _can_install()
    missing = [need for need in NEEDS if not (need[4]() if wants_installed else need[3]())]
    if missing and not _can_install():
        names = " and ".join(name for name, *_ in missing)
        variables = " and ".join(variable for _, _, variable, *_ in missing)
        print(f"the tests need {names}: install it, start Docker, or set {variables} to a running one", file=sys.stderr)
        return 1
    packages = [package for _, package, *_ in missing]
    packages += [package for package, find in TOOLS if find() is None and _can_install()]
    if packages:
        print(f"tests: installing the Debian package(s) {' '.join(packages)}", flush=True)
        _install(packages)
    for name, _, _, source, _ in NEEDS:
        print(f"tests: {name} is {source()}", flush=True)
    return 0


def _can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install(packages: list[str]) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        subprocess.run(["apt-get", "update", "-qq"], env=quiet, check=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        subprocess.run(install, env=quiet, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _no_services() -> Iterator[None]:
    """Packages bring services that start at once; the tests start servers of their own, so Debian's way to forbid it."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():  # the machine has a policy of its own
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
