"""A message-queue service mesh for loosely coupled pods."""

__version__ = "0.1.0"
