"""The wire format: what was written is read again; any bytes are messages or a DecodeError, nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from meshq.core.errors import Code
from meshq.core.message import (
    DeadLetter,
    DecodeError,
    Fault,
    Message,
    Request,
    Response,
    decode,
    encode,
)
from tests.vectors.write_message_v1 import BAD, GOOD, record

ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
plain = st.binary().map(lambda b: b.translate(None, b"\r\n\0"))
fields = st.lists(st.tuples(plain, plain), max_size=20)
words = st.from_regex(r"[!-~]{0,63}", fullmatch=True)
texts = st.text(max_size=60)
numbers = st.integers(0, 2**53 - 1)
targets = st.binary(max_size=80).map(lambda b: b"/" + b.translate(None, b"\r\n\0\t ")) | st.just(b"*")
bodies = st.binary(max_size=300)
paths = st.binary(max_size=40).map(lambda b: b"/" + b.translate(None, b"\r\n\0\t "))
printable = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" "), max_size=200)
shorts = st.from_regex(r"[!-~]{0,30}", fullmatch=True)

asked = (
    ids,
    st.sampled_from(["GET", "POST", "M-SEARCH", "x"]),
    targets,
    fields,
    st.none() | bodies,
    words,
    texts,
    st.none() | numbers,
    st.none() | numbers,
    st.integers(1, 2**53 - 1),
    numbers,
    words,
)
nothing = st.just("")
waited = st.builds(Request, *asked, st.none(), printable, nothing, st.just(b""), nothing, st.just(0), st.booleans())
sent = st.builds(Request, *asked, numbers, printable, shorts, st.just(b"") | paths, shorts, numbers, st.booleans())
callbacks = st.just(b"") | paths
responses = st.builds(
    Response, ids, st.integers(200, 999), fields, bodies, words, st.integers(1, 2**53 - 1), words, callbacks
)
faults = st.builds(Fault, ids, st.sampled_from(Code), texts, st.booleans(), words, words, callbacks)
dead_letters = st.builds(
    DeadLetter,
    ids,
    words,
    texts,
    texts,
    numbers,
    words,
    bodies,
    st.none() | numbers,
    st.binary(max_size=1024),
    numbers,
    words,
)
messages: st.SearchStrategy[Message] = st.one_of(waited, sent, responses, faults, dead_letters)


@given(st.lists(messages, min_size=1, max_size=5))
def test_what_was_written_is_read_again(pack: list[Message]) -> None:
    assert decode(b"".join(map(encode, pack))) == pack


def survives(data: bytes) -> None:
    """Messages that could be written, or DecodeError."""
    try:
        read = decode(data)
    except DecodeError:
        return
    assert decode(b"".join(map(encode, read))) == read


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    survives(data)


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_any_bytes_as_a_header(header: bytes, payload: bytes) -> None:
    survives(record(header, payload))


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | st.binary(max_size=30)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
keys = st.sampled_from("kimphefsdwnocytrqaxvbjuz") | texts
kinds = st.sampled_from("qrfx")


@given(st.dictionaries(keys, values, max_size=12), kinds, ids, st.binary(max_size=20))
def test_any_map_as_a_header(header: dict[str, object], kind: str, ident: str, payload: bytes) -> None:
    survives(record(header, payload))
    survives(record(header | {"k": kind, "i": ident}, payload))


seeds = st.sampled_from(
    [b"".join(map(encode, pack)) for _, pack in GOOD] + [wire for _, wire in BAD if len(wire) < 500]
)


of_durable = st.fixed_dictionaries({"a": st.none() | numbers, "m": st.just("GET"), "p": paths, "h": st.just([])})


@given(of_durable, st.dictionaries(st.sampled_from("xvbrjfswd"), values | words | paths | numbers, max_size=6), ids)
def test_anything_in_the_fields_of_a_durable_request(
    header: dict[str, object], more: dict[str, object], ident: str
) -> None:
    survives(record(more | header | {"k": "q", "i": ident}))


@given(seeds, st.data())
def test_a_good_encoding_with_something_wrong(wire: bytes, data: st.DataObject) -> None:
    mutated = bytearray(wire)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "drop"])):
            case "flip" if at < len(mutated):
                mutated[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del mutated[at:]
            case "insert":
                mutated[at:at] = data.draw(st.binary(max_size=8))
            case _:
                del mutated[at : at + 1]
    survives(bytes(mutated))
