"""The control API on port 3590: what the command line and the dashboard ask."""
