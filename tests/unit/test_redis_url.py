"""The URL of a Redis, taken apart."""

import pytest

from meshq.adapters.redis_url import Kind, RedisUrl, parse


@pytest.mark.parametrize(
    ("url", "parsed", "where"),
    [
        ("redis://redis", RedisUrl(Kind.SERVER, False, (("redis", 6379),)), "redis:6379"),
        (
            "rediss://me:p%2Fss%40w@redis.shop:6380/3",
            RedisUrl(Kind.SERVER, True, (("redis.shop", 6380),), "me", "p/ss@w", 3),
            "redis.shop:6380",
        ),
        ("redis://:only@[::1]:7000", RedisUrl(Kind.SERVER, False, (("::1", 7000),), "", "only"), "[::1]:7000"),
        (
            "redis+sentinel://me:pass@s1,s2:5000,[::1]/main/2?sentinel_user=you&sentinel_password=p%26s",
            RedisUrl(
                Kind.SENTINEL,
                False,
                (("s1", 26379), ("s2", 5000), ("::1", 26379)),
                "me",
                "pass",
                2,
                "main",
                "you",
                "p&s",
            ),
            "'main' of the Sentinels at s1:26379, s2:5000, [::1]:26379",
        ),
        (
            "rediss+cluster://c1,c2/0",
            RedisUrl(Kind.CLUSTER, True, (("c1", 6379), ("c2", 6379))),
            "the cluster at c1:6379, c2:6379",
        ),
    ],
)
def test_what_is_in_it(url: str, parsed: RedisUrl, where: str) -> None:
    assert parse(url) == parsed
    assert parsed.where == where


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("amqp://redis", "no scheme of Redis"),
        ("redissentinel://redis/main", "no scheme of Redis"),
        ("redis://a,b", "one host"),
        ("redis://redis:port", "host that cannot be"),
        ("redis://redis:70000", "host that cannot be"),
        ("redis://u:s3cret/x@redis", "host that cannot be"),
        ("redis://u:s3cret#x@redis", "host that cannot be"),
        ("redis://u:s3cret?x@redis", "host that cannot be"),
        ("redis://u:s3cret[x@redis", "host that cannot be"),
        ("redis://redis/zero", "number of a database"),
        ("redis://redis/0/1", "number of a database"),
        ("redis://redis?ssl_cert_reqs=none", "MESHQ_TLS_CA"),
        ("redis+sentinel://s1,s2", "does not name the master"),
        ("redis+sentinel://s1,s2/main/zero", "number of a database"),
        ("redis+sentinel://s1/main?password=s3cret", "sentinel_password"),
        ("redis+cluster://c1,c2/3", "no database of a cluster but 0"),
        ("redis+cluster://c1,,c2", "host that cannot be"),
    ],
)
def test_what_is_refused_is_not_repeated(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        parse(url)
    assert "s3cret" not in str(raised.value)
