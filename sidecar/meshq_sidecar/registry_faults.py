"""What is said of a registry that does not do what was asked of it."""

import logging

from meshq.ports import RegistryAway

logger = logging.getLogger(__name__)


def fault_of(error: Exception, before: str) -> str:
    """In one line. Anything but RegistryAway is a mistake, here or in what the registry holds, and is logged with its traceback,
    once: unless it is the one `before`."""
    if isinstance(error, RegistryAway):
        return str(error)
    said = f"the registry's answer could not be used: {error!r}"
    if said != before:
        logger.error("%s", said, exc_info=error)
    return said
