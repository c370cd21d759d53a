"""Our frames against pika's own encoder and decoder, and against bytes that are no frames."""

from contextlib import suppress
from typing import Any

import pika.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.spec import Basic, BasicProperties

from meshq.adapters import amqp_frames as frames
from meshq.adapters.amqp_publisher import encode
from meshq.core.message import CONTENT_TYPE
from meshq.ports import Publication

channels = st.integers(1, 2**16 - 1)
tags = st.integers(0, 2**64 - 1)
shorts = st.text(max_size=255).filter(lambda text: len(text.encode()) <= 255)
frame_sizes = st.sampled_from([4096, 4097, 8192, 131072])
bodies = st.binary(max_size=300) | st.integers(0, 30_000).map(lambda size: (b"0123456789" * 3000)[:size])
edges = st.sampled_from([4087, 4088, 4089, 8175, 8176, 8177]).map(bytes)


def by_pika(channel: int, method: Any, properties: BasicProperties, body: bytes, frame_max: int) -> bytes:
    """As pika's connection sends a message."""
    parts = [pika.frame.Method(channel, method).marshal(), pika.frame.Header(channel, len(body), properties).marshal()]
    room = frame_max - 8
    parts += [pika.frame.Body(channel, body[at : at + room]).marshal() for at in range(0, len(body), room)]
    return b"".join(parts)


publications = st.builds(
    Publication,
    shorts,
    shorts,
    bodies | edges,
    shorts,
    st.sampled_from(["call", "reply", "dead"]),
    shorts,
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(0, 255),
)


@given(publications, channels, st.booleans(), shorts, shorts, st.integers(0, 2**63), frame_sizes)
def test_what_is_published_is_what_pika_would_send(
    publication: Publication, channel: int, mandatory: bool, user: str, app: str, seconds: int, frame_max: int
) -> None:
    reply = publication.kind == "reply"
    properties = BasicProperties(
        content_type=CONTENT_TYPE,
        delivery_mode=1 if reply else 2,
        priority=publication.priority,
        correlation_id=publication.message_id if reply else None,
        reply_to=publication.reply_to or None,
        expiration=None if publication.expiration_ms is None else str(publication.expiration_ms),
        message_id=publication.message_id,
        timestamp=seconds,
        type=publication.kind,
        user_id=user,
        app_id=app,
    )
    method = Basic.Publish(exchange=publication.exchange, routing_key=publication.key, mandatory=mandatory)
    ours = encode(publication, channel, mandatory, user, app, seconds, frame_max)
    assert ours == by_pika(channel, method, properties, publication.body, frame_max)


@given(channels, tags, st.booleans())
def test_settling_is_written_as_pika_writes_it(channel: int, tag: int, multiple: bool) -> None:
    assert frames.ack(channel, tag, multiple) == pika.frame.Method(channel, Basic.Ack(tag, multiple)).marshal()
    nack = Basic.Nack(tag, multiple=False, requeue=True)
    assert frames.requeue(channel, tag) == pika.frame.Method(channel, nack).marshal()


tables = st.dictionaries(
    st.text(max_size=10),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
properties = st.builds(
    BasicProperties,
    *[st.none() | shorts] * 2,
    st.none() | tables,
    *[st.none() | st.integers(0, 255)] * 2,
    *[st.none() | shorts] * 4,
    st.none() | st.integers(0, 2**63),
    *[st.none() | shorts] * 3,
    st.none() | shorts,
)


@given(properties, channels, st.integers(0, 2**63))
def test_a_header_is_read_as_pika_reads_it(given_properties: BasicProperties, channel: int, size: int) -> None:
    wire = pika.frame.Header(channel, size, given_properties).marshal()
    frame = frames.read_frame(wire, 0)
    assert frame is not None
    kind, read_channel, start, end = frame
    assert (kind, read_channel, end + 1) == (frames.FRAME_HEADER, channel, len(wire))
    read_size, read = frames.read_header(wire[start:end])
    assert read_size == size
    assert frames.has_headers(wire[start:end]) == (given_properties.headers is not None)
    if given_properties.cluster_id is not None:
        assert read is None, "only pika reads that"
        return
    _, theirs = pika.frame.decode_frame(wire)
    p = theirs.properties
    expected = (p.content_type, p.correlation_id, p.reply_to, p.message_id, p.user_id)
    assert read == frames.Properties(*(text or "" for text in expected))


@given(shorts, tags, st.booleans(), shorts, shorts, channels)
def test_a_delivery_is_read_as_pika_reads_it(
    consumer: str, tag: int, redelivered: bool, exchange: str, key: str, channel: int
) -> None:
    method = Basic.Deliver(consumer, tag, redelivered, exchange, key)
    wire = pika.frame.Method(channel, method).marshal()
    frame = frames.read_frame(wire, 0)
    assert frame is not None
    payload = wire[frame[2] : frame[3]]
    assert int.from_bytes(payload[:4], "big") == frames.DELIVER == Basic.Deliver.INDEX
    assert frames.read_deliver(payload) == (tag, redelivered, exchange.encode())


@given(tags, st.booleans(), channels)
def test_a_confirm_is_read_as_pika_reads_it(tag: int, multiple: bool, channel: int) -> None:
    for method, number in ((Basic.Ack(tag, multiple), frames.ACK), (Basic.Nack(tag, multiple, False), frames.NACK)):
        wire = pika.frame.Method(channel, method).marshal()
        payload = wire[7:-1]
        assert int.from_bytes(payload[:4], "big") == number == method.INDEX
        assert frames.read_confirm(payload) == (tag, multiple)


@given(st.lists(st.tuples(channels, st.binary(max_size=40)), max_size=5), st.binary(max_size=20))
def test_frames_are_found_one_after_the_other(content: list[tuple[int, bytes]], rest: bytes) -> None:
    wire = b"".join(pika.frame.Body(channel, body).marshal() for channel, body in content)
    at, found = 0, []
    while (frame := frames.read_frame(wire, at)) is not None:
        kind, channel, start, end = frame
        assert kind == frames.FRAME_BODY
        assert frames.claimed_size(wire, at) == end + 1 - at
        found.append((channel, wire[start:end]))
        at = end + 1
    assert (found, at) == (content, len(wire))
    if content:
        for cut in range(len(wire) - len(content[-1][1]) - 8, len(wire)):
            assert frames.read_frame(wire[:cut], len(wire) - len(content[-1][1]) - 8) is None


@given(st.binary(max_size=200), st.binary(min_size=14, max_size=80))
def test_garbage_is_an_index_error_or_something_short(garbage: bytes, header: bytes) -> None:
    for payload in (garbage, header):
        with suppress(IndexError):
            _, read = frames.read_header(payload)
            # What was read can be written: a text that was not UTF-8 has not grown by it.
            assert read is None or all(len(frames.short(text)) <= 256 for text in read)
        with suppress(IndexError):
            frames.read_deliver(payload)
        with suppress(IndexError):
            frames.read_confirm(payload)
        frames.read_frame(payload, 0)


@given(st.text(min_size=256, max_size=300))
def test_what_is_too_long_for_a_short_string_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        frames.short(text)
