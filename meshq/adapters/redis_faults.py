"""Why Redis cannot be used, in a sentence that says what to do about it."""

import socket
import ssl

from redis import exceptions

from meshq.adapters.redis_url import VARIABLE, RedisUrl

LOST = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterDownError, TimeoutError, OSError)
"""No answer came, or none that is about the command. Any other RedisError is Redis's answer to one command."""
FAILURES = (exceptions.RedisError, TimeoutError, OSError)
RIGHTS = """`python -c "from meshq.core.redis_acl import rules; print(*rules('<mesh>'))"` prints what follows ACL SETUSER <user>"""


def explain(error: BaseException, url: RedisUrl, seconds: float) -> str:
    """`seconds` is how long an answer was waited for."""
    if isinstance(error, TimeoutError):
        hint = "; is that port one with TLS?" if url.tls else ""
        return f"Redis at {url.where} did not answer in {seconds:g} s{hint}"
    return f"Redis at {url.where} {_fault(error)}"


def _fault(error: BaseException) -> str:
    match _root(error):
        case exceptions.AuthenticationError():
            return f"refuses user or password: check those in {VARIABLE}"
        case exceptions.ResponseError() as refused if _lacks_a_right(refused):
            return f"refuses: {_said(refused)}; give the user the rights that meshq needs: {RIGHTS}"
        case exceptions.ReadOnlyError():
            return f"is a replica: point {VARIABLE} at the master, or at the Sentinels with redis+sentinel://"
        case exceptions.OutOfMemoryError() as refused:
            return f"refuses: {_said(refused)}; it is full, raise its maxmemory"
        case exceptions.BusyLoadingError():
            return "is loading its data: it will answer when that is done"
        case exceptions.MasterDownError() | exceptions.ClusterDownError() as down:
            return f"is down: {_said(down)}; a master without a working replica has to come back (redis-cli --cluster check)"
        case exceptions.MovedError():
            return f"is a server of a cluster: give {VARIABLE} as redis+cluster://"
        case exceptions.AskError() | exceptions.TryAgainError():
            return "is moving the keys to another server: it will be tried again"
        case ssl.SSLCertVerificationError() as distrusted:
            return f"has a certificate that is not trusted: {distrusted.verify_message}; set MESHQ_TLS_CA"
        case ssl.SSLError() as failed:
            return f"cannot be spoken to over TLS: {failed.reason or failed}; is that port one without TLS (redis://)?"
        case socket.gaierror():
            return f"has a host name that is not known: check {VARIABLE} and the DNS"
        case ConnectionRefusedError():
            return "cannot be used: nothing listens there; is it running?"
        case exceptions.ResponseError() as refused if "cluster support disabled" in str(refused):
            return f"is not a cluster: give {VARIABLE} as redis:// or redis+sentinel://"
        case exceptions.ResponseError() as refused:
            return f"refuses: {_said(refused)}"
        case other:
            return f"cannot be used: {str(other) or type(other).__name__}"


def _lacks_a_right(error: exceptions.ResponseError) -> bool:
    return isinstance(error, exceptions.NoPermissionError) or str(error).startswith(
        "The user executing the script can't"
    )


def _said(error: BaseException) -> str:
    return str(error).partition(" script: ")[0].removesuffix(".")  # and where in it


def _root(error: BaseException) -> BaseException:
    """redis-py wraps what happened to a connection, and says it only in its own words."""
    for _ in range(5):
        inner = error.__cause__ or error.__context__
        if type(error) is not exceptions.ConnectionError or not isinstance(inner, OSError | exceptions.RedisError):
            break
        error = inner
    return error
