"""A token bucket."""

from meshq.core.buckets import Bucket


def test_a_burst_and_then_a_steady_rate() -> None:
    bucket = Bucket(4.0, 2)
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.25, 0.5]
    assert bucket.take(100.5) == 0.25
    assert [bucket.take(200.0) for _ in range(3)] == [0.0, 0.0, 0.25], "what was not used does not add up"
