"""Takes messages or takes none, as core/standing.py decides from all that is noted here; and has the mesh told what this
instance is.
"""

from collections.abc import Callable

from meshq.core.instances import State
from meshq.core.standing import Circumstances, Standing, standing


class Duty:
    """`start` and `stop` consuming are called in turn, `start` first; `tell` with every state that the registry is to know."""

    def __init__(
        self, first: Circumstances, start: Callable[[], None], stop: Callable[[], None], tell: Callable[[State], None]
    ) -> None:
        self.here = first
        self._start = start
        self._stop = stop
        self._tell = tell
        self._now = Standing(standing(first).told, standing(first).state, consumes=False)

    @property
    def state(self) -> State:
        return self._now.state

    @property
    def told(self) -> State:
        return self._now.told

    @property
    def consumes(self) -> bool:
        return self._now.consumes

    def note(self, **changes: bool) -> None:
        """What is otherwise from now on, by the names of Circumstances."""
        self.here = self.here._replace(**changes)
        before, self._now = self._now, standing(self.here)
        if self._now.told is not before.told:
            self._tell(self._now.told)
        if self._now.consumes and not before.consumes:
            self._start()
        elif before.consumes and not self._now.consumes:
            self._stop()
