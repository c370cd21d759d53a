"""The network of one process on loopback, to be cut: what it sends is recognised by a group of its own, the connections that
it takes part in by a mark on them, so both directions of each are dropped and everybody else's are left alone."""

import os
import shutil
import subprocess

from tests.servers.processes import NoServer

GROUPS_FROM = 60_000
"""Group ids that nobody has."""


class Wire:
    """Of a process that is started by `command` and what follows it. `number` is this wire's own, below 100,000."""

    def __init__(self, number: int) -> None:
        self._group = str(GROUPS_FROM + number)
        self._cut = False

    @property
    def command(self) -> list[str]:
        """What a command has to begin with; [] where that is not possible, and neither is `cut` then."""
        setpriv = shutil.which("setpriv")
        if setpriv is None or os.geteuid() != 0:
            return []
        # A change of the group takes away the signal that ends it with its parent: set it anew.
        return [setpriv, "--regid", self._group, "--clear-groups", "--pdeathsig", "KILL", "--"]

    def cut(self) -> None:
        """Raises NoServer where this is not possible."""
        if not self.command or shutil.which("iptables") is None:
            raise NoServer("cutting a node off needs root, setpriv and iptables (on Debian: apt-get install iptables)")
        self._cut = True
        for rule in self._rules():
            _iptables("--insert", *rule)

    def mend(self) -> None:
        if self._cut:
            for rule in self._rules():
                _iptables("--delete", *rule)
            self._cut = False

    def _rules(self) -> tuple[tuple[str, ...], ...]:
        ours = ("-m", "owner", "--gid-owner", self._group)
        return (
            ("INPUT", "-i", "lo", "-m", "connmark", "--mark", self._group, "-j", "DROP"),
            ("OUTPUT", "-o", "lo", *ours, "-j", "CONNMARK", "--set-mark", self._group),
        )


def _iptables(*arguments: str) -> None:
    subprocess.run(["iptables", "--wait", *arguments], check=True, capture_output=True)
