"""The sidecar: an app's localhost calls out, and the calls of others in."""
