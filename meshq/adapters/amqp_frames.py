"""The few AMQP 0-9-1 frames of the hot path, written and read without pika's codec.

pika builds an object for every frame and encodes each property by a function call: 20 to 50 us a message. What meshq
publishes is one method frame that repeats (kept ready), one header frame with properties from a fixed set, and the body;
what it consumes is Basic.Deliver. Those are done here; every other frame goes to pika unread. The property tests hold
both directions equal to pika's own encoder and decoder.

Frame: type u8, channel u16, size u32, payload, 0xCE. Content header payload: class u16, weight u16, body size u64, flags
u16, then the properties whose flags are set, in the order of FLAGS.
"""

import codecs
import struct
from typing import NamedTuple

FRAME_METHOD, FRAME_HEADER, FRAME_BODY = 1, 2, 3
FRAME_END = 0xCE
FRAME_OVERHEAD = 8

DELIVER = 0x003C003C
RETURN = 0x003C0032
ACK = 0x003C0050
NACK = 0x003C0078

_FRAME = struct.Struct(">BHI")
_HEADER = struct.Struct(">BHIHHQH")
_ACK = struct.Struct(">BHIIQBB")
_PUBLISH = struct.Struct(">IH")

FLAG_CONTENT_TYPE = 1 << 15
FLAG_ENCODING = 1 << 14
FLAG_HEADERS = 1 << 13
FLAG_DELIVERY_MODE = 1 << 12
FLAG_PRIORITY = 1 << 11
FLAG_CORRELATION_ID = 1 << 10
FLAG_REPLY_TO = 1 << 9
FLAG_EXPIRATION = 1 << 8
FLAG_MESSAGE_ID = 1 << 7
FLAG_TIMESTAMP = 1 << 6
FLAG_TYPE = 1 << 5
FLAG_USER_ID = 1 << 4
FLAG_APP_ID = 1 << 3
_UNKNOWN_FLAGS = 0b111  # cluster id, an unused bit, and "more flags follow", which nobody sends


class Properties(NamedTuple):
    """The properties of a received message that meshq looks at on the hot path."""

    content_type: str = ""
    correlation_id: str = ""
    reply_to: str = ""
    message_id: str = ""
    user_id: str = ""


def short(text: str) -> bytes:
    """A short string: its length in a byte, then UTF-8. Raises ValueError over 255 bytes."""
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"{text[:60]!r}... is longer than the 255 bytes that AMQP allows here")
    return bytes((len(data),)) + data


def publish_method(channel: int, exchange: str, key: str, mandatory: bool) -> bytes:
    """A whole Basic.Publish frame."""
    payload = b"\x00\x3c\x00\x28\x00\x00" + short(exchange) + short(key) + (b"\x01" if mandatory else b"\x00")
    return _FRAME.pack(FRAME_METHOD, channel, len(payload)) + payload + b"\xce"


def content(channel: int, flags: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """The header frame and the body frames of a message; `properties` encoded in the order of the flags."""
    size = len(body)
    header = _HEADER.pack(FRAME_HEADER, channel, 14 + len(properties), 60, 0, size, flags)
    room = frame_max - FRAME_OVERHEAD
    if size <= room:
        if not size:
            return b"%b%b\xce" % (header, properties)
        return b"%b%b\xce%b%b\xce" % (header, properties, _FRAME.pack(FRAME_BODY, channel, size), body)
    parts = [header, properties, b"\xce"]
    for start in range(0, size, room):
        piece = body[start : start + room]
        parts += (_FRAME.pack(FRAME_BODY, channel, len(piece)), piece, b"\xce")
    return b"".join(parts)


def ack(channel: int, tag: int, multiple: bool) -> bytes:
    return _ACK.pack(FRAME_METHOD, channel, 13, ACK, tag, multiple, FRAME_END)


def requeue(channel: int, tag: int) -> bytes:
    """Basic.Nack with requeue, one message."""
    return _ACK.pack(FRAME_METHOD, channel, 13, NACK, tag, 0b10, FRAME_END)


def read_frame(data: bytes, at: int) -> tuple[int, int, int, int] | None:
    """(type, channel, start of payload, end of payload) of the frame at `at`, None when it is not all there."""
    if len(data) - at < 7:
        return None
    kind, channel, size = _FRAME.unpack_from(data, at)
    start = at + 7
    end = start + size
    return None if end >= len(data) else (kind, channel, start, end)


def claimed_size(data: bytes, at: int) -> int:
    """How long the frame at `at` says it is, all of it; 0 when that is not there yet."""
    return 0 if len(data) - at < 7 else int.from_bytes(data[at + 3 : at + 7], "big") + FRAME_OVERHEAD


def read_deliver(payload: bytes) -> tuple[int, bool, bytes]:
    """(delivery tag, redelivered, exchange that it was published to) of a Basic.Deliver; the consumer is known by its channel."""
    at = 5 + payload[4]
    end = at + 10 + payload[at + 9]
    return int.from_bytes(payload[at : at + 8], "big"), bool(payload[at + 8] & 1), payload[at + 10 : end]


def has_headers(header: bytes) -> bool:
    """Whether a content header has a table of headers, as what the broker itself has touched does."""
    return bool(header[12] & FLAG_HEADERS >> 8)


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """(delivery tag, multiple) of a Basic.Ack or Basic.Nack."""
    return int.from_bytes(payload[4:12], "big"), bool(payload[12] & 1)


def _question_mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "?", error.end


# Unlike "replace" it never makes a text longer: a reply_to that was read has to fit when it is written.
_NOT_UTF8 = "meshq.question_mark"
codecs.register_error(_NOT_UTF8, _question_mark)


def read_header(payload: bytes) -> tuple[int, Properties | None]:
    """(body size, properties) of a content header; None for properties that only pika can read. Raises IndexError for one
    that is cut off."""
    size = int.from_bytes(payload[4:12], "big")
    flags = payload[12] << 8 | payload[13]
    if flags & _UNKNOWN_FLAGS:
        return size, None
    at = 14
    content_type = correlation_id = reply_to = message_id = user_id = ""
    if flags & FLAG_CONTENT_TYPE:
        end = at + 1 + payload[at]
        content_type, at = payload[at + 1 : end].decode("utf-8", _NOT_UTF8), end
    if flags & FLAG_ENCODING:
        at += 1 + payload[at]
    if flags & FLAG_HEADERS:
        at += 4 + int.from_bytes(payload[at : at + 4], "big")
    if flags & FLAG_DELIVERY_MODE:
        at += 1
    if flags & FLAG_PRIORITY:
        at += 1
    if flags & FLAG_CORRELATION_ID:
        end = at + 1 + payload[at]
        correlation_id, at = payload[at + 1 : end].decode("utf-8", _NOT_UTF8), end
    if flags & FLAG_REPLY_TO:
        end = at + 1 + payload[at]
        reply_to, at = payload[at + 1 : end].decode("utf-8", _NOT_UTF8), end
    if flags & FLAG_EXPIRATION:
        at += 1 + payload[at]
    if flags & FLAG_MESSAGE_ID:
        end = at + 1 + payload[at]
        message_id, at = payload[at + 1 : end].decode("utf-8", _NOT_UTF8), end
    if flags & FLAG_TIMESTAMP:
        at += 8
    if flags & FLAG_TYPE:
        at += 1 + payload[at]
    if flags & FLAG_USER_ID:
        end = at + 1 + payload[at]
        user_id = payload[at + 1 : end].decode("utf-8", _NOT_UTF8)
    return size, Properties(content_type, correlation_id, reply_to, message_id, user_id)
