"""The simulated service: messages, a queue, and replicas that take time to start and to end. One event at a time, seeded.

Messages wait in one queue, first in first out, and go to the replica that has had a free slot for longest. A replica works on
`slots` messages at once. One that is ended takes nothing new. Where it is told to drain first it goes when it has done what it had, and
has said so; else what it has not done when its grace is over is put back, and counted as killed. A message that fails is tried again
after a delay, as a new message for the queue.
"""

import math
from collections import deque
from heapq import heappop, heappush
from random import Random
from typing import Any

from meshq.simulate.traces import Trace

LEAD_SPREAD = 0.35
"""Standard deviation of the logarithm of start-up leads, which are lognormal."""
RETRY_DELAYS = (1.0, 5.0, 30.0, 120.0)
"""After a message's first, second... failure; after the last it is dead."""
LEADS_KEPT = 50
DRAINED_REPORTS = 2
"""Of one that drains and has nothing left, before it is believed (meshq.signals.direct_drains): the first may be older."""

_STARTED, _DONE, _RETRIED, _KILLED = range(4)
"""Kinds of events."""
_STARTING, _READY, _DRAINING, _GONE = range(4)
"""States of a replica."""

Message = tuple[float, float, int]
"""When it came into the queue, seconds of work, failures so far."""


class Pod:
    __slots__ = ("drained_reports", "drains", "in_flight", "ordered_at", "ready_at", "reported", "state")

    def __init__(self, now: float) -> None:
        self.ordered_at = now
        self.ready_at = math.inf
        self.in_flight = 0
        self.reported = 0
        """`in_flight` at its last report."""
        self.drains = False
        """It is ended only when it has said that nothing is left."""
        self.drained_reports = 0
        self.state = _STARTING


class Cluster:
    def __init__(self, trace: Trace, seed: int) -> None:
        self._trace = trace
        self._next = 0
        self._leads = Random(f"leads:{trace.name}:{seed}")
        self._failures = Random(f"failures:{trace.name}:{seed}")
        self._events: list[tuple[float, int, int, Any, Any, float]] = []
        """Time, a number that keeps the order, kind, replica, message, when its work began."""
        self._number = 0
        self._free: deque[Pod] = deque()
        """A place for each free slot; those of replicas that are ended by now are passed over."""
        self._ending: list[Pod] = []
        self.queue: deque[Message] = deque()
        self.pods: list[Pod] = []
        """Those that are not being ended, in the order of their orders."""
        self.ready = 0
        self.in_flight = 0
        self.published = 0
        self.done = 0
        self.handled = 0
        self.failed = 0
        self.busy = 0.0
        self.busy_squares = 0.0
        self.killed = 0
        self.pod_seconds = 0.0
        """Of those that are gone."""
        self.waits: list[float] = []
        """Of each message that is done: seconds from the queue to the start of the work that ended well or failed."""
        self.leads: deque[float] = deque(maxlen=LEADS_KEPT)
        """Seconds that the last starts took."""
        self.starts: list[float] = []
        """When replicas became ready."""
        for _ in range(trace.replicas):
            pod = Pod(0.0)
            self.pods.append(pod)
            self._open(pod, 0.0)

    # --- time ---------------------------------------------------------------------------------------------------------------

    def run_until(self, end: float) -> None:
        """All that happens up to and at `end`."""
        arrivals, events, free, queue = self._trace.arrivals, self._events, self._free, self.queue
        count, index = len(arrivals), self._next
        while True:
            comes = arrivals[index][0] if index < count else math.inf
            if not events or comes <= events[0][0]:
                if comes > end:
                    break
                message = (comes, arrivals[index][1], 0)
                index += 1
                self.published += 1
                if free and not queue:
                    self._give(message, comes)
                else:
                    queue.append(message)
                continue
            if events[0][0] > end:
                break
            now, _, kind, pod, message, began = heappop(events)
            if kind == _DONE:
                if pod.state != _GONE:
                    self._finish(pod, message, began, now)
            elif kind == _RETRIED:
                self.published += 1
                self.queue.append(message)
                self._hand_out(now)
            elif kind == _STARTED:
                if pod.state == _STARTING:
                    self.leads.append(now - pod.ordered_at)
                    self._open(pod, now)
            elif pod.state == _DRAINING:
                self._kill(pod, now)
        self._next = index

    def _give(self, message: Message, now: float) -> None:
        """To a free slot, or into the queue where all of them turn out to be of replicas that are ended."""
        free = self._free
        while free:
            pod = free.popleft()
            if pod.state == _READY:
                self._begin(pod, message, now)
                return
        self.queue.append(message)

    def _hand_out(self, now: float) -> None:
        while self.queue and self._free:
            pod = self._free.popleft()
            if pod.state == _READY:
                self._begin(pod, self.queue.popleft(), now)

    def _begin(self, pod: Pod, message: Message, now: float) -> None:
        takes = message[1]
        for span, factor in self._trace.slow:
            if span.begins <= now < span.ends:
                takes *= factor
        pod.in_flight += 1
        self.in_flight += 1
        self._number += 1
        heappush(self._events, (now + takes, self._number, _DONE, pod, message, now))

    def _finish(self, pod: Pod, message: Message, began: float, now: float) -> None:
        took = now - began
        pod.in_flight -= 1
        self.in_flight -= 1
        self.done += 1
        self.handled += 1
        self.busy += took
        self.busy_squares += took * took
        self.waits.append(began - message[0])
        if self._trace.failing:
            self._try_again(message, now)
        if pod.state == _READY:
            if self.queue:
                self._begin(pod, self.queue.popleft(), now)
            else:
                self._free.append(pod)
        elif not pod.in_flight and not pod.drains:
            self._gone(pod, now)

    def _try_again(self, message: Message, now: float) -> None:
        for span, part in self._trace.failing:
            if span.holds(now) and self._failures.random() < part:
                self.failed += 1
                failures = message[2]
                if failures < len(RETRY_DELAYS):
                    back = now + RETRY_DELAYS[failures]
                    self._push(back, _RETRIED, None, (back, message[1], failures + 1))

    def _kill(self, pod: Pod, now: float) -> None:
        """What it works on goes back to where it stood in the queue."""
        lost = sorted(event[4] for event in self._events if event[2] == _DONE and event[3] is pod)
        self.killed += len(lost)
        self.in_flight -= len(lost)
        self.queue.extendleft(reversed(lost))
        self._gone(pod, now)
        self._hand_out(now)

    def _push(self, at: float, kind: int, pod: Pod | None, message: Message | None = None) -> None:
        self._number += 1
        heappush(self._events, (at, self._number, kind, pod, message, at))

    # --- replicas -----------------------------------------------------------------------------------------------------------

    def scale(self, wanted: int, now: float, *, spares_busy: bool, drains: bool) -> None:
        """`spares_busy`, `drains`: seen.Controller's."""
        while len(self.pods) < wanted:
            pod = Pod(now)
            self.pods.append(pod)
            self._push(now + self._leads.lognormvariate(math.log(self._trace.startup), LEAD_SPREAD), _STARTED, pod)
        for pod in self._victims(len(self.pods) - wanted, spares_busy):
            self._end(pod, now, drains)

    def _victims(self, count: int, spares_busy: bool) -> list[Pod]:
        """Those that are not ready first, then the least busy where costs say which, then the newest."""
        if count <= 0:
            return []

        def rank(pod: Pod) -> tuple[bool, int, float, float]:
            return pod.state == _READY, pod.reported if spares_busy else 0, -pod.ready_at, -pod.ordered_at

        return sorted(self.pods, key=rank)[:count]

    def _open(self, pod: Pod, now: float) -> None:
        pod.state = _READY
        pod.ready_at = now
        self.ready += 1
        self.starts.append(now)
        self._free.extend([pod] * self._trace.slots)
        self._hand_out(now)

    def _end(self, pod: Pod, now: float, drains: bool) -> None:
        """One that starts has nothing to drain."""
        self.pods.remove(pod)
        started = pod.state == _READY
        self.ready -= started
        pod.drains = drains and started
        if pod.drains or pod.in_flight:
            pod.state = _DRAINING
            self._ending.append(pod)
            if not pod.drains:
                self._push(now + self._trace.grace, _KILLED, pod)
        else:
            pod.state = _GONE
            self.pod_seconds += now - pod.ordered_at

    def _gone(self, pod: Pod, now: float) -> None:
        pod.state = _GONE
        self._ending.remove(pod)
        self.pod_seconds += now - pod.ordered_at

    def report(self, now: float) -> None:
        """Each replica says how busy it is, which is what deletion costs are made of; and one that drains, whether it is done."""
        for pod in self.pods:
            pod.reported = pod.in_flight
        for pod in [each for each in self._ending if each.drains and not each.in_flight]:
            pod.drained_reports += 1
            if pod.drained_reports == DRAINED_REPORTS:
                self._gone(pod, now)

    def close(self, now: float) -> None:
        """The end of the trace: replicas that are there have cost what they have, and all that waits or is worked on is judged as
        if its work had begun now, or when it did."""
        self.pod_seconds += sum(now - pod.ordered_at for pod in (*self.pods, *self._ending))
        self.waits += [now - message[0] for message in self.queue]
        self.waits += [
            began - message[0]
            for _, _, kind, pod, message, began in self._events
            if kind == _DONE and pod.state != _GONE
        ]
