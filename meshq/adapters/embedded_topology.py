"""What was declared in the embedded broker: exchanges, bindings, queues and logs, who may use which, and who waits for one."""

from collections.abc import Callable, Collection, Sequence

from meshq.adapters.embedded_delivery import Holder
from meshq.adapters.embedded_exchange import Routes
from meshq.adapters.embedded_place import Place
from meshq.adapters.store import MessageStore
from meshq.core.topology import Binding, Queue, Topology

Client = object
"""Whoever has a connection: told apart, nothing else."""


class Places:
    def __init__(self, make: Callable[[Queue], Place], store: MessageStore | None) -> None:
        """`make` gives a queue or a log that was not there. What lasts is written to the store."""
        self._make = make
        self._store = store
        self._routes = Routes()
        self._places: dict[str, Place] = {}
        self._owners: dict[str, Client] = {}
        """Who has declared each exclusive queue."""
        self._waiting: list[tuple[str, Holder, Client]] = []
        """Consumers whose queue is not there yet, or belongs to another client."""

    # --- what is there ----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def all(self) -> Collection[Place]:
        return self._places.values()

    def named(self, name: str) -> Place | None:
        return self._places.get(name)

    def takes(self, exchange: str) -> bool:
        """Whether a client may publish to it."""
        return self._routes.takes(exchange)

    def route(self, exchange: str, key: str) -> Sequence[Place]:
        """Where a message goes."""
        if exchange == "":  # AMQP's default exchange: the key is the name of a queue
            return [self._places[key]] if key in self._places else []
        return [self._places[name] for name in self._routes.route(exchange, key)]

    # --- declaring --------------------------------------------------------------------------------------------------------

    def declare(self, topology: Topology, client: Client | None) -> dict[str, str]:
        """Make what is not there. Returns a sentence for each thing that is there and is another, by its name; everything
        else is made all the same."""
        faults: dict[str, str] = {}
        for exchange in topology.exchanges:
            known = self._routes.has(exchange.name)
            if fault := self._routes.declare(exchange):
                faults[exchange.name] = fault
            elif self._store is not None and not known:
                self._store.put_exchange(exchange)
        for queue in topology.queues:
            if fault := self._declare_queue(queue, client):
                faults[queue.name] = fault
        for binding in topology.bindings:
            if missing := self._missing(binding):
                faults[missing] = (
                    f"{missing!r} does not exist, so {binding.source!r} is not bound to {binding.destination!r}"
                )
            elif self._routes.bind(binding) and self._store is not None and self._lasts(binding):
                self._store.put_binding(binding)
        return faults

    def withdraw(self, unwanted: Topology, client: Client) -> None:
        """Take out its bindings, and its queues that are empty and unused. Exchanges stay."""
        for binding in unwanted.bindings:
            if self._routes.unbind(binding) and self._store is not None and self._lasts(binding):
                self._store.delete_binding(binding)
        for queue in unwanted.queues:
            place = self.usable(queue.name, client)
            if place is not None and place.unused:
                self._delete(place)

    def restore(self, topology: Topology) -> None:
        """What an earlier process left."""
        for exchange in topology.exchanges:
            self._routes.declare(exchange)
        for queue in topology.queues:
            self._places[queue.name] = self._make(queue)
        for binding in topology.bindings:
            self._routes.bind(binding)

    def _declare_queue(self, spec: Queue, client: Client | None) -> str:
        existing = self._places.get(spec.name)
        if existing is None:
            place = self._places[spec.name] = self._make(spec)
            if spec.exclusive and client is not None:
                self._owners[spec.name] = client
            if place.lasting and self._store is not None:
                self._store.put_queue(spec)
            waiting, self._waiting = self._waiting, []
            for name, holder, consumer in waiting:
                self.consume(name, holder, consumer)
            return ""
        if existing.spec.exclusive and self._owners.get(spec.name) is not client:
            return f"queue {spec.name!r} belongs to another connection: give this instance an id of its own"
        return _difference(existing.spec, spec)

    def _missing(self, binding: Binding) -> str:
        """The end of it that is not there, or ""."""
        there = self._routes.has(binding.destination) if binding.to_exchange else binding.destination in self._places
        if not there:
            return binding.destination
        return "" if self._routes.has(binding.source) else binding.source

    def _lasts(self, binding: Binding) -> bool:
        place = self._places.get(binding.destination)
        return binding.to_exchange or place is None or place.lasting

    def _delete(self, place: Place) -> None:
        """It has no consumers any more."""
        name = place.spec.name
        place.close()
        del self._places[name]
        self._owners.pop(name, None)
        bindings = self._routes.unbind_queue(name)
        if self._store is not None and place.lasting:
            self._store.delete_queue(name)
            for binding in bindings:
                self._store.delete_binding(binding)

    # --- clients ----------------------------------------------------------------------------------------------------------

    def let_go(self, client: Client) -> None:
        """The client is gone, and consumes nothing any more: so are its exclusive queues."""
        for name in [name for name, owner in self._owners.items() if owner is client]:
            self._delete(self._places[name])

    def consume(self, name: str, holder: Holder, client: Client) -> None:
        """Now, or as soon as there is such a queue that the client may use."""
        place = self.usable(name, client)
        if place is None:
            self._waiting.append((name, holder, client))
        else:
            place.attach(holder)

    def stop_consuming(self, holder: Holder) -> None:
        if holder.place is not None:
            holder.place.detach(holder)
        else:
            self._waiting = [w for w in self._waiting if w[1] is not holder]

    def usable(self, name: str, client: Client) -> Place | None:
        return self._places.get(name) if self._owners.get(name, client) is client else None


def _difference(existing: Queue, wanted: Queue) -> str:
    """What is wrong with a queue that is there already, with what to do about it; "" when it is the same."""
    there, here = dict(existing.arguments), dict(wanted.arguments)
    differing = [
        f"{name} is {there.get(name, 'unset')} and should be {here.get(name, 'unset')}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if existing.durable != wanted.durable:
        differing.append(f"durable is {existing.durable} and should be {wanted.durable}")
    if existing.exclusive != wanted.exclusive:
        differing.append(f"exclusive is {existing.exclusive} and should be {wanted.exclusive}")
    if not differing:
        return ""
    return (
        f"queue {wanted.name!r} exists with other arguments: {', '.join(differing)}. Run the same version of meshq "
        "everywhere, or drain the queue, delete it and restart: it is made anew"
    )
