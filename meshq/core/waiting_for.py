"""MESHQ_WAIT_FOR: which of the services that an app cannot work without are not there yet."""

from collections.abc import Iterable

from meshq.core.instances import Instance, Snapshot, State
from meshq.core.selectors import Address


def missing(wanted: Iterable[Address], picture: Snapshot) -> tuple[Address, ...]:
    """Those of which no ready instance is in the picture that the address accepts. A picture that may be old counts: an app that
    starts while the registry is away finds what was there last."""
    return tuple(address for address in wanted if not _there(address, picture))


def _there(address: Address, picture: Snapshot) -> bool:
    service = picture.services.get(address.service)
    return service is not None and any(_accepts(address, instance) for instance in service.instances)


def _accepts(address: Address, instance: Instance) -> bool:
    if instance.state is not State.READY or not instance.majors:
        return False
    selector = address.selector
    if selector is None:
        return True
    if selector.major is not None:  # by topic, so one that serves an old major too counts
        return selector.major in instance.majors
    return selector.admits(instance.version)
