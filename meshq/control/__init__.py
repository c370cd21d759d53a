"""The control API on port 3590: what the command line and the dashboard ask."""

from meshq.core.names import OPERATOR

SERVICE = OPERATOR
DOMAIN = "mesh"
PORT = 3590
USUAL = f"http://127.0.0.1:{PORT}"
"""Where a control API is, unless somebody said otherwise."""
