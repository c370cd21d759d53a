"""The guard against mass expiry: as rules, and as the embedded registry applies them to meshes that lose whom they lose."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.core.eviction import (
    GUARD_AFTER_RETURN_MS,
    GUARD_COUNT,
    GUARD_MOST_MS,
    GUARD_SHARE,
    QUIET_AGAIN,
    SECOND_MS,
    SHARE_A_SECOND,
    allowance,
    given_up_at,
    holds,
)
from meshq.core.instances import TTL_MS, Load, State
from tests.contract.registry_rigs import instance

COUNTS = st.integers(0, 10_000)


@given(COUNTS, COUNTS)
def test_the_guard_holds_for_more_than_its_share_and_never_for_three(leases: int, expired: int) -> None:
    expired = min(expired, leases)
    assert holds(leases, expired) is (expired > GUARD_COUNT and expired / max(leases, 1) > GUARD_SHARE)


@given(COUNTS, COUNTS, COUNTS)
def test_the_guard_never_holds_for_fewer_and_not_for_more(leases: int, expired: int, fewer: int) -> None:
    expired = min(expired, leases)
    if holds(leases, min(fewer, expired)):
        assert holds(leases, expired)
    if not holds(leases, expired) and expired > 0:
        assert not holds(leases - 1, expired - 1), "giving one up does not stop the others from being given up"


@given(st.integers(1, 10_000))
def test_one_may_always_go_and_else_never_more_than_the_share(leases: int) -> None:
    assert 1 <= allowance(leases) <= max(1, SHARE_A_SECOND * leases)
    assert allowance(leases) <= allowance(leases + 1)


@given(COUNTS, COUNTS)
def test_the_guard_never_empties_a_mesh(leases: int, expired: int) -> None:
    expired = min(expired, leases)
    left = leases - expired if not holds(leases, expired) else leases
    assert left >= leases - max(GUARD_COUNT, GUARD_SHARE * leases)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.booleans())
def test_nobody_is_given_up_before_a_second_lease_time(renewed: int, ttl: int, held: bool) -> None:
    at = given_up_at(renewed, renewed + ttl, ttl, held=held)
    assert at == (max(renewed + 2 * ttl, renewed + GUARD_MOST_MS) if held else renewed + 2 * ttl)


# --- the embedded registry ----------------------------------------------------------------------------------------------------

STEP_MS = 250


class Mesh:
    """A registry, who is silent in it, and what is to be seen of it four times a second."""

    def __init__(self, size: int, seed: int) -> None:
        self.clock = ManualClock()
        self.hub = EmbeddedRegistryHub(self.clock, chance=Random(seed))
        self.random = Random(seed + 1)
        self.speaks = {f"i-{n}": self.hub.register(instance(f"i-{n}")) for n in range(size)}
        self.silent: dict[str, int] = {}
        self.last_seen = dict.fromkeys(self.speaks, self.now)
        self.returned = 0
        """When one renewed a lease that had run out, the last time that this counted."""
        self.went: list[tuple[int, int, int]] = []
        """When how many of how many that were not down went down."""

    @property
    def now(self) -> int:
        return self.clock.mesh_ms()

    def silence(self, count: int) -> None:
        for ident in self.random.sample(sorted(self.speaks), min(count, len(self.speaks))):
            self.silent[ident] = self.speaks.pop(ident)

    def speak(self, count: int) -> None:
        for ident in self.random.sample(sorted(self.silent), min(count, len(self.silent))):
            self.speaks[ident] = self.silent.pop(ident)

    def live(self, milliseconds: int) -> None:
        """Let time pass; who speaks renews about every third of a lease."""
        end = self.now + milliseconds
        down = self.down()
        while self.now < end:
            self.clock.advance(STEP_MS / 1000)
            for ident, generation in self.speaks.items():
                if self.now - self.last_seen[ident] >= TTL_MS / 3:
                    assert self.hub.renew("orders", ident, generation, Load()) is not None
                    counts = self.now >= self.returned + QUIET_AGAIN * GUARD_AFTER_RETURN_MS
                    if counts and self.now >= self.last_seen[ident] + TTL_MS:
                        self.returned = self.now
                    self.last_seen[ident] = self.now
            before, down = down, self.down()
            self.check(before, down)

    def down(self) -> set[str]:
        picture = self.hub.snapshot()
        return {i.id for i in picture.services["orders"].instances if i.state is State.DOWN}

    def check(self, before: set[str], down: set[str]) -> None:
        went, still = down - before, down & before
        standing = len(self.last_seen) - len(still)
        expired = sum(self.now >= at + TTL_MS for ident, at in self.last_seen.items() if ident not in still)
        for ident in went:
            silent_ms = self.now - self.last_seen[ident]
            assert silent_ms >= 2 * TTL_MS
            assert self.now >= self.returned + GUARD_AFTER_RETURN_MS
            assert silent_ms >= GUARD_MOST_MS or not holds(standing, expired)
        if went:
            self.went.append((self.now, len(went), standing))
        of_a_second = [(count, size) for at, count, size in self.went if at > self.now - SECOND_MS]
        if of_a_second:
            assert sum(count for count, _ in of_a_second) <= allowance(max(size for _, size in of_a_second))


THINGS = st.lists(
    st.tuples(st.sampled_from(["silence", "speak"]), st.integers(1, 25), st.integers(0, 40)), min_size=1, max_size=4
)


@given(st.integers(1, 25), THINGS, st.integers(0, 1000))
def test_whoever_falls_silent_and_returns(size: int, things: list[tuple[str, int, int]], seed: int) -> None:
    mesh = Mesh(size, seed)
    for what, count, seconds in things:
        getattr(mesh, what)(count)
        mesh.live(seconds * 1000)
    mesh.speak(size)
    mesh.live(TTL_MS)
    assert mesh.down() == set()
    assert not mesh.hub.snapshot().holding
