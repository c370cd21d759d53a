"""Once per key over every store: what several instances of a service make of one key."""

import asyncio

import pytest

from meshq.adapters.clock import SystemClock
from meshq.adapters.redis_store import RedisStore
from meshq.core.http import HttpResponse
from meshq.core.message import Request
from meshq.ports import Store
from meshq_sidecar.once import Answer, Away, Handle, OncePerKey, Token, Verdict
from tests.contract.broker_rigs import Recorder, eventually
from tests.contract.store_rigs import StoreRig
from tests.doubles import Counted
from tests.servers.redis import RedisServer

PAY = Request("m0", "POST", b"/pay", [(b"Idempotency-Key", b"k")], b"5 EUR", "shop")
LEASE = 60.0


class Instance:
    """One of `orders`, whose app takes some turns of the loop for a message."""

    def __init__(self, store: Store, name: str) -> None:
        self.once = OncePerKey(store, SystemClock(), Counted(), f"orders/2.0.0/{name}", LEASE)
        self.handled: list[str] = []
        self.answers = Recorder[HttpResponse]()
        self.away = Recorder[Away]()
        self._name = name

    def take(self, request: Request) -> None:
        def verdict(said: Verdict) -> None:
            match said:
                case Handle(token):
                    self.handled.append(request.id)
                    asyncio.get_running_loop().call_later(0.1, self._answer, token)
                case Answer(response):
                    self.answers(response)
                case Away():
                    self.away(said)
                case _:
                    raise AssertionError(said)

        self.once.begin(request, "orders.v2", "shop", verdict)

    def _answer(self, token: Token) -> None:
        response = HttpResponse(200, [(b"Handled-By", self._name.encode())], token.ident.encode())
        self.once.finish(token, response, lambda: self.answers(response))


async def test_five_deliveries_of_one_key_are_handled_once_and_answered_alike(stores: StoreRig) -> None:
    instances = [Instance(await stores.connect(), f"i-{n}") for n in range(3)]
    for n in range(5):
        instances[n % 3].take(PAY._replace(id=f"m{n}"))
    answers = [answer for i, n in zip(instances, (2, 2, 1), strict=True) for answer in await i.answers.count(n)]
    assert len(answers) == 5
    assert len(set(map(str, answers))) == 1
    (handled,) = [ident for i in instances for ident in i.handled]
    assert answers[0].body == handled.encode()
    for instance in instances:
        await instance.once.close()


async def test_many_keys_at_once_are_each_handled_once(stores: StoreRig) -> None:
    instances = [Instance(await stores.connect(), f"i-{n}") for n in range(3)]
    for n in range(120):
        key = b"%d" % (n % 40)
        instances[n % 3].take(PAY._replace(id=f"m{n}", headers=[(b"idempotency-key", key)]))
    for instance in instances:
        await instance.answers.count(40)
    handled = [int(ident[1:]) % 40 for i in instances for ident in i.handled]
    assert sorted(handled) == list(range(40))
    for instance in instances:
        await instance.once.close()


@pytest.mark.redis
async def test_with_redis_away_no_message_with_a_key_begins_and_back_it_does(
    fault_redis: RedisServer,
) -> None:
    store = RedisStore(fault_redis.url, "test")
    await store.open()
    instance = Instance(store, "i-1")
    try:
        await asyncio.to_thread(fault_redis.kill)
        instance.take(PAY)
        await instance.away.count(1)
        await asyncio.to_thread(fault_redis.start)

        async def begins() -> bool:
            known = len(instance.away.seen)
            instance.take(PAY)
            await eventually(lambda: said(known))
            return bool(instance.handled)

        async def said(known: int) -> bool:
            return bool(instance.handled) or len(instance.away.seen) > known

        await eventually(begins)
        await instance.answers.count(1)
        instance.take(PAY._replace(id="m1"))
        await instance.answers.count(2)
        assert instance.handled == ["m0"]
    finally:
        await instance.once.close()
        await store.close()
