"""Which of several replicas of the server acts: the one that holds a lease. Each of them looks and answers for itself; from the same
counts they decide the same."""

import asyncio
import logging

from meshq.ports import Store, StoreAway

logger = logging.getLogger(__name__)

LEASE = 15.0
RENEW_EVERY = 5.0
NAME = "signals"


class Leading:
    """`run` holds the lease whenever it can. `owner` is this replica's name."""

    def __init__(self, store: Store, owner: str) -> None:
        self.now = False
        self.owner = owner
        self._store = store

    async def run(self) -> None:
        """Until it is cancelled. While the store is away nobody leads: another may have been told that it does."""
        while True:
            was = self.now
            try:
                self.now = await self._store.lead(NAME, self.owner, LEASE)
            except StoreAway as error:
                self.now = False
                if was:
                    logger.warning("%s; nobody leads until it answers", error)
            if self.now != was:
                logger.info("%s %s", self.owner, "leads" if self.now else "does not lead any more")
            await asyncio.sleep(RENEW_EVERY)
