"""Where a message goes in the embedded broker: exchanges and bindings, with AMQP's rules."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

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

    def unbind(self, binding: Binding) -> bool:
        """Returns whether it was there."""
        exchange = self._exchanges.get(binding.source)
        if exchange is None or binding not in exchange.bindings:
            return False
        exchange.remove({binding})
        self._cache.clear()
        return True

    def has(self, exchange: str) -> bool:
        return exchange in self._exchanges

    def unbind_queue(self, queue: str) -> list[Binding]:
        """Take out every binding to `queue`. Returns them."""
        gone = []
        for exchange in self._exchanges.values():
            mine = [b for b in exchange.bindings if b.destination == queue and not b.to_exchange]
            exchange.remove(set(mine))
            gone += mine
        self._cache.clear()
        return gone

    def route(self, exchange: str, key: str) -> tuple[str, ...]:
        """The names of the queues that a message goes to."""
        found = self._cache.get((exchange, key))
        if found is None:
            found = tuple(self._queues(exchange, key, _words(key), set()))
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[exchange, key] = found
        return found

    def _queues(self, name: str, key: str, words: list[str], seen: set[str]) -> dict[str, None]:
        exchange = self._exchanges.get(name)
        if exchange is None or name in seen:
            return {}
        seen.add(name)
        matching = exchange.matching(key, words)
        if not matching:
            return self._queues(exchange.alternate, key, words, seen)
        queues: dict[str, None] = {}
        for binding in matching:
            if binding.to_exchange:
                queues |= self._queues(binding.destination, key, words, seen)
            else:
                queues[binding.destination] = None
        return queues


class _Exchange:
    def __init__(self, spec: ExchangeSpec) -> None:
        self.spec = spec
        self.alternate = str(dict(spec.arguments).get("alternate-exchange", ""))
        self.bindings: dict[Binding, None] = {}
        self._exact: dict[str, list[Binding]] = {}
        self._patterns: list[tuple[Pattern, Binding]] = []

    def add(self, binding: Binding) -> None:
        self.bindings[binding] = None
        words = _words(binding.key)
        if self.spec.kind == "topic" and ("*" in words or "#" in words):
            self._patterns.append((Pattern(words), binding))
        else:
            self._exact.setdefault("" if self.spec.kind == "fanout" else binding.key, []).append(binding)

    def remove(self, gone: AbstractSet[Binding]) -> None:
        if gone:
            kept = [b for b in self.bindings if b not in gone]
            self.bindings, self._exact, self._patterns = {}, {}, []
            for binding in kept:
                self.add(binding)

    def matching(self, key: str, words: list[str]) -> list[Binding]:
        if self.spec.kind == "fanout":
            return self._exact.get("", [])
        return self._exact.get(key, []) + [binding for pattern, binding in self._patterns if pattern.takes(words)]


class Pattern:
    """A topic pattern, for many keys.

    Every queue whose messages can be delayed has patterns of more than twenty words, so most are told apart by what is cheap: how
    many words there must be, and the plain words before the first `#` and behind the last one."""

    __slots__ = ("_any_number", "_fixed", "_inner", "_plain")

    def __init__(self, words: Sequence[str]) -> None:
        self._any_number = "#" in words
        self._fixed = sum(word != "#" for word in words)
        before = words.index("#") if self._any_number else len(words)
        behind = words[::-1].index("#") if self._any_number else 0
        plain = [(at, word) for at, word in enumerate(words[:before]) if word != "*"]
        plain += [(-at - 1, word) for at, word in enumerate(words[::-1][:behind]) if word != "*"]
        self._plain = plain[::-1]  # patterns of one exchange begin alike more often than they end alike
        self._inner = list(words) if words.count("#") > 1 else None

    def takes(self, words: Sequence[str]) -> bool:
        if len(words) != self._fixed and (len(words) < self._fixed or not self._any_number):
            return False
        for at, word in self._plain:
            if words[at] != word:
                return False
        return self._inner is None or matches(self._inner, words)


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
