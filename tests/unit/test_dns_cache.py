"""What resolvers said, kept for as long as they allow and as there is room for."""

from meshq.adapters.dns_cache import OVERHEAD, Cache
from meshq.core.dns_wire import HEADER, RECORD, RESPONSE, read


def packet(ttl: int, data: bytes = b"\x7f\0\0\1") -> bytes:
    return (
        HEADER.pack(0, RESPONSE, 1, 1, 0, 0) + b"\1a\0\0\1\0\1" + b"\xc0\x0c" + RECORD.pack(1, 1, ttl, len(data)) + data
    )


def key(name: str) -> tuple[bytes, int, bool]:
    return name.encode(), 0, False


def put(cache: Cache, name: str, now: float, ttl: int = 60, data: bytes = b"\x7f\0\0\1") -> None:
    made = packet(ttl, data)
    cache.put(key(name), made, read(made), now)


def test_an_answer_grows_old() -> None:
    cache = Cache()
    put(cache, "a", 100.0, ttl=60)
    found = cache.get(key("a"), 120.9)
    assert found is not None
    assert found.how == "kept"
    assert found.records == packet(40)[HEADER.size + 7 :]
    assert cache.get(key("a"), 160.0) is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_may_not_be_kept_is_not() -> None:
    cache = Cache()
    put(cache, "a", 100.0, ttl=0)
    assert len(cache) == 0


def test_the_least_used_goes_first() -> None:
    cache = Cache(max_entries=2)
    put(cache, "a", 100.0)
    put(cache, "b", 100.0)
    assert cache.get(key("a"), 101.0)
    put(cache, "c", 101.0)
    assert [cache.get(key(name), 101.0) is not None for name in "abc"] == [True, False, True]


def test_bytes_are_bounded() -> None:
    size = len(packet(60, bytes(1000))) + OVERHEAD
    cache = Cache(max_bytes=2 * size)
    for name in "abc":
        put(cache, name, 100.0, data=bytes(1000))
    assert (len(cache), cache.bytes) == (2, 2 * size)
    put(cache, "huge", 100.0, data=bytes(3000))
    assert cache.get(key("huge"), 100.0) is None
    assert len(cache) == 2


def test_a_newer_one_takes_its_place() -> None:
    cache = Cache()
    put(cache, "a", 100.0)
    before = cache.bytes
    put(cache, "a", 130.0)
    assert (len(cache), cache.bytes) == (1, before)
    assert cache.get(key("a"), 170.0)
