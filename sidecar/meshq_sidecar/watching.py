"""What the picture of the mesh says to this instance: what an operator ordered, whether the services it waits for are there, and
whether everybody of its own service is unhealthy.
"""

import logging
from collections.abc import Callable

from meshq.core.instances import Instance, Orders, Snapshot
from meshq.core.selectors import Address
from meshq.core.standing import panics
from meshq.core.waiting_for import missing

logger = logging.getLogger(__name__)


class Watching:
    """`see` is to be called with every new picture. `obey` is called with the orders in it for this instance, and whether they are
    what the registry says now; `complete` once, when nothing of `wait_for` is missing any more."""

    def __init__(
        self,
        service: str,
        instance: str,
        wait_for: tuple[Address, ...],
        generation: Callable[[], int | None],
        obey: Callable[[Orders, bool], None],
        complete: Callable[[], None],
    ) -> None:
        self.missing = wait_for
        """() from when they were there once: what goes later does not stop this instance."""
        self.panic = False
        self.orders = Orders()
        """The last that were seen."""
        self._wait_for = wait_for
        self._service = service
        self._instance = instance
        self._generation = generation
        self._obey = obey
        self._complete = complete

    def see(self, picture: Snapshot) -> None:
        self._look_for_orders(picture)
        self._look_for_panic(picture)
        if self.missing:
            self.missing = missing(self._wait_for, picture)
            if not self.missing:
                logger.info("every service of MESHQ_WAIT_FOR is there")
                self._complete()

    def _look_for_orders(self, picture: Snapshot) -> None:
        own = self._own(picture)
        if (
            own is None
        ):  # what was ordered before holds: the registry has forgotten this instance, or does not know it yet
            return
        # An operator's pause is of the id. A drain is of the process that was registered when it was ordered.
        self.orders = own.orders._replace(drain=own.orders.drain and own.generation == self._generation())
        self._obey(self.orders, not picture.stale)

    def _own(self, picture: Snapshot) -> Instance | None:
        service = picture.services.get(self._service)
        if service is None:
            return None
        return next((each for each in service.instances if each.id == self._instance), None)

    def _look_for_panic(self, picture: Snapshot) -> None:
        service = picture.services.get(self._service)
        panic = service is not None and panics(service)
        if panic and not self.panic:
            logger.error("every instance of %s is unhealthy: its messages wait in their queues", self._service)
        elif self.panic and not panic:
            logger.info("%s has instances again that are not unhealthy", self._service)
        self.panic = panic
