"""The last of something, by message id."""

from collections import OrderedDict


class Recent:
    """At most `most`; the oldest make room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self.get = self._numbers.get

    def put(self, ident: str, number: int) -> None:
        self._numbers[ident] = number
        if len(self._numbers) > self._most:
            self._numbers.popitem(last=False)
