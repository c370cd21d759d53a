"""The guard against mass expiry, over every registry there is (meshq/core/eviction.py): who is given up when many leases run out.

Those that live have a lease that outlasts the test, so that nobody has to renew for a thousand of them.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable

from meshq.core.eviction import allowance
from meshq.core.instances import Load, Snapshot, State
from meshq.ports import Registry
from tests.contract.registry_rigs import (
    DOWN_WITHIN,
    LONG_MS,
    SECOND,
    SUSPECT_WITHIN,
    TTL_MS,
    RegistryRig,
    instance,
)

AT_ONCE = 20
"""Registrations under way."""
SERVICES = 10
SOON = 990
"""Milliseconds that are a second, where each end is cut to whole ones and the clocks of processes are read in between."""


async def register(registry: Registry, names: Iterable[str], ttl_ms: int = 0) -> dict[str, tuple[str, int]]:
    """Over ten services. Returns the service and the generation of each."""
    found: dict[str, tuple[str, int]] = {}
    waiting = list(enumerate(names))

    async def work() -> None:
        while waiting:
            number, name = waiting.pop()
            service = f"service-{number % SERVICES}"
            found[name] = service, await registry.register(instance(name, service=service, ttl_ms=ttl_ms))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return found


def states(picture: Snapshot) -> Counter[State]:
    return Counter(i.state for service in picture.services.values() for i in service.instances)


def down(picture: Snapshot) -> set[str]:
    return {i.id for service in picture.services.values() for i in service.instances if i.state is State.DOWN}


async def test_when_all_fall_silent_nobody_is_given_up(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    silent = await register(owner, (f"silent-{n}" for n in range(registries.many)))
    all_suspect = {State.SUSPECT: registries.many}
    await registries.seen(reader, lambda seen: states(seen) == all_suspect, SUSPECT_WITHIN)
    for _ in range(6):
        await registries.advance(1)
        revision = (await reader.snapshot()).revision
        await reader.changed(revision, 0)
        picture = await reader.snapshot()
        assert picture.holding
        assert states(picture) == all_suspect
    service, generation = silent["silent-7"]
    assert await owner.renew(service, "silent-7", generation, Load()) is not None
    picture = await reader.snapshot()
    (back,) = (i for i in picture.services[service].instances if i.id == "silent-7")
    assert back.last_seen_ms > picture.services[service].instances[0].last_seen_ms
    assert down(picture) == set()


async def test_a_few_of_many_are_out_on_time(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    live = registries.many - 10
    await register(owner, (f"lives-{n}" for n in range(live)), LONG_MS)
    silent = await register(owner, (f"silent-{n}" for n in range(10)))
    last_seen = max(i.last_seen_ms for s in (await reader.snapshot()).services.values() for i in s.instances)
    suspects = await registries.seen(reader, lambda seen: states(seen)[State.SUSPECT] == 10, SUSPECT_WITHIN)
    assert not suspects.holding
    out = await registries.seen(reader, lambda seen: len(down(seen)) == 10, DOWN_WITHIN)
    assert not out.holding
    assert out.revision >= last_seen + 2 * TTL_MS
    assert (down(out), states(out)) == (set(silent), {State.READY: live, State.DOWN: 10})


async def test_no_more_than_the_allowance_goes_in_a_second(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    await register(owner, (f"lives-{n}" for n in range(5)), LONG_MS)
    silent = await register(owner, ("silent-1", "silent-2", "silent-3"))
    assert allowance(len(silent) + 5) == 1
    gone, at = [0], [0]
    while gone[-1] < len(silent):
        picture = await registries.seen(reader, lambda seen: len(down(seen)) > gone[-1], DOWN_WITHIN + SECOND)
        gone.append(len(down(picture)))
        at.append(picture.revision)
    # A revision is the time of the last change, so of the last one that went.
    for before, when in zip(gone[1:], at[1:], strict=True):
        assert at[-1] - when >= (gone[-1] - before) * SOON
    assert states(picture) == {State.READY: 5, State.DOWN: 3}


async def test_those_that_are_back_are_ready_again(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    names = [f"silent-{n}" for n in range(12)]
    silent = await register(owner, names)
    held = await registries.seen(
        reader, lambda seen: seen.holding and states(seen) == {State.SUSPECT: 12}, SUSPECT_WITHIN
    )
    await registries.advance(2 + SECOND)
    assert await reader.changed(held.revision, 0) == held.revision, "nothing has changed"
    for name, (service, _) in silent.items():
        await owner.register(instance(name, service=service, ttl_ms=LONG_MS))
    back = await reader.snapshot()
    assert states(back) == {State.READY: 12}
    assert not back.holding
    await registries.advance(2 + SECOND)
    assert states(await reader.snapshot()) == {State.READY: 12}, "none of them was lost meanwhile"


async def test_the_guard_lets_go_when_the_others_are_back(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    silent = await register(owner, (f"silent-{n}" for n in range(30)))
    await registries.seen(reader, lambda seen: seen.holding and states(seen) == {State.SUSPECT: 30}, SUSPECT_WITHIN)
    await registries.advance(1.5)
    lost = {"silent-4", "silent-17"}
    for name, (service, _) in silent.items():
        if name not in lost:
            await owner.register(instance(name, service=service, ttl_ms=LONG_MS))
    after = await registries.seen(reader, lambda seen: down(seen) == lost, DOWN_WITHIN)
    assert not after.holding
    assert states(after) == {State.READY: 28, State.DOWN: 2}


async def test_one_that_keeps_coming_back_keeps_nobody_else(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    flapping = await owner.register(instance("flapping"))
    await owner.register(instance("dead"))
    for _ in range(8):
        await registries.advance(1.1)
        await reader.changed((await reader.snapshot()).revision, 0)
        if "dead" in down(await reader.snapshot()):
            return
        await owner.renew("orders", "flapping", flapping, Load())
    raise AssertionError("it is never given up")
