"""Why the control API does not do what it was asked, where that is no error of the mesh (core/errors.py)."""


class NotThere(Exception):
    """What is asked about is not there; the message says what, and which there are. 404."""


class InTheWay(Exception):
    """What is there already forbids it; the message says what to do. 409."""
