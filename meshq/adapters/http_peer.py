"""Whether a client that sent its FIN is still there to read, asked of the kernel.

A FIN says that the client will send no more. It may have shut its write side only and wait for the answer, or be gone:
on the wire the two look alike until something is written. For a client on the same host (every client of a sidecar is) the
kernel knows: a socket that its process closed has no inode any more. `sock_diag` (man 7) gives it for one socket in a few
microseconds. Where it does not (another host, another system, a sandbox) the client counts as there.
"""

import socket
import struct
from typing import Any

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ENOENT = 2

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states
_SOCKET_ID = struct.Struct("!HH16s16s")  # source port, destination port, source, destination; then interface and cookie
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_INODE_AT = 16 + 4 + 48 + 16  # after both headers, the socket's id, and expires, rqueue, wqueue, uid


def peer_is_gone(sock: Any) -> bool:
    """True only if the process at the other end of the TCP socket `sock` has surely closed its end."""
    try:
        family = sock.family
        ours, theirs = sock.getsockname(), sock.getpeername()
        if ours[0] != theirs[0] and not _is_loopback(family, theirs[0]):
            return False  # it may be another host's socket, of which this kernel knows nothing
        query = _query(family, theirs, ours)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as diag:
            diag.setblocking(False)  # the kernel answers within the send
            diag.send(query)
            return _says_gone(diag.recv(4096))
    except (OSError, AttributeError, struct.error):
        return False


def _is_loopback(family: int, host: str) -> bool:
    return host == "::1" if family == socket.AF_INET6 else host.startswith("127.")


def _query(family: int, source: Any, destination: Any) -> bytes:
    socket_id = _SOCKET_ID.pack(
        source[1],
        destination[1],
        socket.inet_pton(family, source[0]),
        socket.inet_pton(family, destination[0]),
    )
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    length = _HEADER.size + len(request) + len(socket_id) + len(_ANY_INTERFACE_AND_COOKIE)
    header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    return header + request + socket_id + _ANY_INTERFACE_AND_COOKIE


def _says_gone(answer: bytes) -> bool:
    kind = _HEADER.unpack_from(answer)[1]
    if kind == _NLMSG_ERROR:
        return bool(struct.unpack_from("=i", answer, _HEADER.size)[0] == -_ENOENT)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return False
    return bool(struct.unpack_from("=I", answer, _INODE_AT)[0] == 0)
