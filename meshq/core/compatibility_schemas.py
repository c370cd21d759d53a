"""Whether what is written by one schema can be read by another, and if not, why.

Of a request the caller writes by the old document and the service reads by the new one; of a response the service writes by the new
one and the caller reads by the old one. So everything here compares a writer and a reader: whatever the writer may write, the reader
has to take. Requests may only widen, responses only narrow. Four things are judged as people mean them and not as sets:

- A further value of an enum in a response is noted, and does not break: a caller has to expect values that it does not know.
- A field that is gone from a response breaks, also where it was optional: whoever reads it waits for it in vain.
- An optional field that is new in a request is new: that an open model let anything come by its name is no promise.
- A response has the fields that its schema names, and others only where `additionalProperties` says so.

Schemas may contain themselves, so two of them are taken to fit until something refutes that: `_settle` finds the greatest relation of
that kind. Of two that come again inside themselves the findings are told once, at the place nearest to the top.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from meshq.core.compatibility_reading import BadDocument, Reading, Variant
from meshq.core.compatibility_variants import Finding, Inner, Judge, Way, candidates

MAX_PAIRS = 50_000
"""Of schemas that are compared for one body: a document that needs more is refused, for `allOf` in circles has them without end."""

_Key = tuple[int, int]


def differences(place: str, way: Way, old: Reading, old_schema: Any, new: Reading, new_schema: Any) -> list[Finding]:
    """Of two schemas, in the order of the document. Raises BadDocument."""
    if way is Way.REQUEST:
        return _Comparison(way, old, new).told(place, old_schema, new_schema)
    return _Comparison(way, new, old).told(place, new_schema, old_schema)


class _Comparison:
    """Of two documents in one way."""

    def __init__(self, way: Way, writer: Reading, reader: Reading) -> None:
        self._judge = Judge(way)
        self._writer = writer
        self._reader = reader
        self._refuted: set[_Key] = set()
        self._proved: set[_Key] = set()

    def told(self, place: str, writer: Any, reader: Any) -> list[Finding]:
        findings: dict[Finding, None] = {}
        seen: set[_Key] = set()
        left = deque([Inner(place, writer, reader)])
        while left:
            pair = left.popleft()
            key = (id(pair.writer), id(pair.reader))
            if key not in seen:
                seen.add(key)
                _check_count(seen)
                for each in self._tell(pair):
                    if isinstance(each, Inner):
                        left.append(each)
                    else:
                        findings[each] = None
        return list(findings)

    def _tell(self, pair: Inner) -> Iterator[Finding | Inner]:
        """What differs, and what is to be looked at next."""
        writes, reads = self._writer.variants(pair.writer), self._reader.variants(pair.reader)
        matched: list[Variant] = []
        for variant in writes:
            found = candidates(variant, writes, reads)
            if not found:
                yield self._judge.untaken(pair.place, variant, reads)
                continue
            chosen = self._chosen(variant, found, matched)
            matched.append(chosen)
            yield from self._judge.own(pair.place, variant, chosen)
            yield from self._judge.inner(pair.place, variant, chosen)
        if len(matched) == len(writes):
            for variant in reads:
                if not _is_among(variant, matched):
                    yield self._judge.unused(pair.place, variant)

    def _chosen(self, writer: Variant, found: list[Variant], matched: list[Variant]) -> Variant:
        """The likeliest that fits and that no other one has; or else the likeliest that fits; or the likeliest."""
        if len(found) == 1:
            return found[0]
        fitting = [each for each in found if self._fits(writer, each)]
        return next((each for each in fitting if not _is_among(each, matched)), (fitting or found)[0])

    # --- whether they fit, before anything is told ----------------------------------------------------------------------------

    def _fits(self, writer: Variant, reader: Variant) -> bool:
        if any(each.breaking for each in self._judge.own("", writer, reader)):
            return False
        inner = list(self._judge.inner("", writer, reader))
        self._settle(inner)
        return not any(self._key(each) in self._refuted for each in inner)

    def _settle(self, pairs: Iterable[Inner]) -> None:
        """Prove or refute these pairs, and all that are in them."""
        ways: dict[_Key, list[list[list[_Key]]]] = {}
        left = list(pairs)
        while left:
            pair = left.pop()
            key = self._key(pair)
            if key not in ways and key not in self._proved and key not in self._refuted:
                found = self._ways(pair)
                ways[key] = [[[self._key(each) for each in way] for way in of_variant] for of_variant in found]
                _check_count(ways)
                left += [each for of_variant in found for way in of_variant for each in way]
        while refuted := [key for key in ways if key not in self._refuted and not self._stands(ways[key])]:
            self._refuted.update(refuted)
        self._proved.update(ways.keys() - self._refuted)

    def _stands(self, ways: list[list[list[_Key]]]) -> bool:
        return all(any(self._refuted.isdisjoint(way) for way in of_variant) for of_variant in ways)

    def _ways(self, pair: Inner) -> list[list[list[Inner]]]:
        """For each variant of the writer, for each of the reader that may take it: which inner pairs have to fit then."""
        writes, reads = self._writer.variants(pair.writer), self._reader.variants(pair.reader)
        return [
            [
                list(self._judge.inner("", variant, each))
                for each in candidates(variant, writes, reads)
                if not any(found.breaking for found in self._judge.own("", variant, each))
            ]
            for variant in writes
        ]

    def _key(self, pair: Inner) -> _Key:
        return id(self._writer.variants(pair.writer)), id(self._reader.variants(pair.reader))


def _is_among(variant: Variant, those: list[Variant]) -> bool:
    return any(variant is each for each in those)


def _check_count(pairs: set[_Key] | dict[_Key, Any]) -> None:
    if len(pairs) > MAX_PAIRS:
        raise BadDocument(f"a body has more than {MAX_PAIRS} parts to compare")
