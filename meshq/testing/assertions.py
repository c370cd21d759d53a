"""What a test asserts of the messages of a mesh, and what it is told when that does not hold: everything there is instead."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from meshq.sdk.bodies import decode, encode
from meshq.testing.messages import Dead, Message


class _Any:
    def __repr__(self) -> str:
        return "any body"


ANY = _Any()


class Assertions(ABC):
    """For TestMesh, which has `sent`, `published` and `dead`."""

    @abstractmethod
    def sent(self, service: str, operation: str | None = None) -> list[Message]: ...
    @abstractmethod
    def published(self, event: str) -> list[Message]: ...
    @abstractmethod
    def dead(self, service: str) -> list[Dead]: ...

    def assert_sent(
        self,
        service: str,
        operation: str | None = None,
        body: Any = ANY,
        *,
        key: str | None = None,
        times: int | None = None,
    ) -> None:
        """A call of this operation (None: of any) with this body was sent to the service.

        Args:
            operation: as of `sent`.
            body: a model, a dataclass or the plain value; default: any.
            key: the ordering key; None: any.
            times: exactly so many; None: at least one.

        Raises:
            AssertionError: none was, or another number; the message shows what was sent to that service.
        """
        what = f"{operation or 'anything'} to {service}"
        good = [each for each in self.sent(service, operation) if _is(each, body, key)]
        _check(len(good), times, _said(what, body, key), f"sent to {service}", self.sent(service))

    def assert_published(
        self, event: str, body: Any = ANY, *, key: str | None = None, times: int | None = None
    ) -> None:
        """As `assert_sent`, of an event."""
        good = [each for each in self.published(event) if _is(each, body, key)]
        _check(len(good), times, _said(event, body, key), f"published as {event}", self.published(event))

    def assert_dead(
        self,
        service: str,
        what: str | None = None,
        body: Any = ANY,
        *,
        reason: str | None = None,
        times: int | None = None,
    ) -> None:
        """The service has such a dead letter.

        Args:
            what: the operation (`POST /create`) or the event's name; None: any.
            reason: `attempts`, `rejected`, `deadline`, ...; None: any.

        Raises:
            AssertionError: as `assert_sent`.
        """
        letters = self.dead(service)
        good = [
            each
            for each in letters
            if what in (None, each.operation, each.event.rpartition(".v")[0])
            and reason in (None, each.reason)
            and (body is ANY or each.body == _plain(body))
        ]
        wanted = f"dead letter of {service}" + (f" for {what}" if what else "") + (f" by {reason}" if reason else "")
        _check(len(good), times, _said(wanted, body, None), f"dead at {service}", letters)


def _is(sent: Message, body: Any, key: str | None) -> bool:
    return (body is ANY or sent.body == _plain(body)) and key in (None, sent.key)


def _plain(body: Any) -> Any:
    encoded = encode(body)
    return decode(encoded.body, encoded.content_type, Any)


def _said(what: str, body: Any, key: str | None) -> str:
    with_body = "" if body is ANY else f" with {_plain(body)!r}"
    return what + with_body + ("" if key is None else f" and key {key!r}")


def _check(found: int, times: int | None, what: str, heading: str, there: Sequence[Message] | Sequence[Dead]) -> None:
    good: Callable[[], bool] = lambda: found > 0 if times is None else found == times
    if not good():
        wanted = "at least one" if times is None else str(times)
        shown = "\n".join(f"  {each}" for each in there) or "  nothing"
        raise AssertionError(f"{wanted} expected, {found} found: {what}\n{heading}:\n{shown}")
