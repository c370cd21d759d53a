"""Where a message goes in the embedded broker: exchanges and bindings, with AMQP's rules."""

from collections.abc import Sequence

from meshq.core.topology import Binding, ExchangeSpec

MAX_CACHED = 10_000
"""Routes remembered; keys that come and go (replies, delays) must not pile up."""


class Routes:
    """Exchanges and their bindings. Knows queues by name only."""

    def __init__(self) -> None:
        self._exchanges: dict[str, _Exchange] = {}
        self._cache: dict[tuple[str, str], tuple[str, ...]] = {}

    def declare(self, spec: ExchangeSpec) -> str:
        """Make the exchange if it is not there. Returns what is wrong: it is there and is another, else ""."""
        existing = self._exchanges.setdefault(spec.name, _Exchange(spec)).spec
        if existing == spec:
            return ""
        return (
            f"exchange {spec.name!r} is {_describe(existing)}, this needs {_describe(spec)}: "
            "run the same version of meshq everywhere, or delete the exchange"
        )

    def takes(self, exchange: str) -> bool:
        """Whether a client may publish to it."""
        found = self._exchanges.get(exchange)
        return exchange == "" or (found is not None and not found.spec.internal)

    def bind(self, binding: Binding) -> bool:
        """Returns whether it is new. The exchange must have been declared."""
        exchange = self._exchanges[binding.source]
        if binding in exchange.bindings:
            return False
        exchange.add(binding)
        self._cache.clear()
        return True

    def has(self, exchange: str) -> bool:
        return exchange in self._exchanges

    def unbind_queue(self, queue: str) -> list[Binding]:
        """Take out every binding to `queue`. Returns them."""
        gone = []
        for exchange in self._exchanges.values():
            gone += exchange.remove_queue(queue)
        self._cache.clear()
        return gone

    def route(self, exchange: str, key: str) -> tuple[str, ...]:
        """The names of the queues that a message goes to."""
        found = self._cache.get((exchange, key))
        if found is None:
            found = tuple(self._queues(exchange, key, set()))
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[exchange, key] = found
        return found

    def _queues(self, name: str, key: str, seen: set[str]) -> dict[str, None]:
        exchange = self._exchanges.get(name)
        if exchange is None or name in seen:
            return {}
        seen.add(name)
        matching = exchange.matching(key)
        if not matching:
            return self._queues(exchange.alternate, key, seen)
        queues: dict[str, None] = {}
        for binding in matching:
            queues |= (
                self._queues(binding.destination, key, seen) if binding.to_exchange else {binding.destination: None}
            )
        return queues


class _Exchange:
    def __init__(self, spec: ExchangeSpec) -> None:
        self.spec = spec
        self.alternate = str(dict(spec.arguments).get("alternate-exchange", ""))
        self.bindings: dict[Binding, None] = {}
        self._exact: dict[str, list[Binding]] = {}
        self._patterns: list[tuple[list[str], Binding]] = []

    def add(self, binding: Binding) -> None:
        self.bindings[binding] = None
        words = _words(binding.key)
        if self.spec.kind == "topic" and ("*" in words or "#" in words):
            self._patterns.append((words, binding))
        else:
            self._exact.setdefault("" if self.spec.kind == "fanout" else binding.key, []).append(binding)

    def remove_queue(self, queue: str) -> list[Binding]:
        gone = [b for b in self.bindings if b.destination == queue and not b.to_exchange]
        if gone:
            kept = [b for b in self.bindings if b not in set(gone)]
            self.bindings, self._exact, self._patterns = {}, {}, []
            for binding in kept:
                self.add(binding)
        return gone

    def matching(self, key: str) -> list[Binding]:
        if self.spec.kind == "fanout":
            return self._exact.get("", [])
        words = _words(key)
        return self._exact.get(key, []) + [b for pattern, b in self._patterns if matches(pattern, words)]


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a topic pattern takes a key: `*` stands for one word, `#` for any number of them, also none."""
    eaten = {0}  # how many of the words the pattern up to here can stand for
    for part in pattern:
        if part == "#":
            eaten = set(range(min(eaten), len(words) + 1))
        else:
            eaten = {n + 1 for n in eaten if n < len(words) and part in ("*", words[n])}
        if not eaten:
            return False
    return len(words) in eaten


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _describe(spec: ExchangeSpec) -> str:
    arguments = ", ".join(f"{name} {value}" for name, value in spec.arguments)
    return f"{'internal ' if spec.internal else ''}{spec.kind}{f' with {arguments}' if arguments else ''}"
