"""When a part of the mesh cannot be asked."""


class Unreachable(Exception):
    """A part of the mesh that the question needs does not answer; the message says which and what to do."""
