"""The control API on port 3590: what the command line and the dashboard ask."""

SERVICE = "meshq-control"
"""What the control API and the command line call themselves on the broker, and to the apps that they call."""
DOMAIN = "mesh"
PORT = 3590
USUAL = f"http://127.0.0.1:{PORT}"
"""Where a control API is, unless somebody said otherwise."""
