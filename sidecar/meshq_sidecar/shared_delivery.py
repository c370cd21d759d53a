"""The delivery of a pack: acknowledged once each of its messages is, put back if one is."""

from typing import cast

from meshq.ports import Delivery


def shared(delivery: Delivery, messages: int) -> Delivery:
    """What stands for `delivery` in each of its messages."""
    return delivery if messages == 1 else cast(Delivery, _Shared(delivery, messages))


def alone(delivery: Delivery) -> bool:
    """Whether it came without others, so that to put it back puts back nothing else."""
    return not isinstance(delivery, _Shared)


class _Shared:
    def __init__(self, delivery: Delivery, messages: int) -> None:
        self._delivery = delivery
        self._left = messages
        self._requeue = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._delivery, name)

    def ack(self) -> None:
        self._settle(requeue=False)

    def requeue(self) -> None:
        self._settle(requeue=True)

    def _settle(self, requeue: bool) -> None:
        self._left -= 1
        self._requeue |= requeue
        if self._left == 0:
            if self._requeue:
                self._delivery.requeue()
            else:
                self._delivery.ack()
