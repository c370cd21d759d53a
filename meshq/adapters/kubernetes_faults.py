"""Why the Kubernetes API did not do what was asked, in a sentence that says what to do about it."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from kubernetes.aio.client.exceptions import ApiException

from meshq.core.cluster import ClusterFault

RIGHTS = "`meshq scale manifest SERVICE --for direct` prints the rights that meshq signals needs"


@contextmanager
def translated(where: str, what: str) -> Iterator[None]:
    """All that can go wrong as ClusterFault. `where` is the API's URL, `what` the thing asked for or changed: `Deployment shop/orders`."""
    try:
        yield
    except ApiException as error:
        raise ClusterFault(_answered(error, what)) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ClusterFault(f"the Kubernetes API at {where} {_away(error)}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ClusterFault(
            f"the Kubernetes API at {where} answers of {what} what is not understood: {error}"
        ) from error


def _answered(error: ApiException, what: str) -> str:
    match error.status:
        case 401:
            return "the Kubernetes API does not accept our token: is the pod's service account still there?"
        case 403:
            return f"a right is missing: {_said(error)}; {RIGHTS}"
        case 404:
            return f"{what} is not there"
        case 409:
            return f"{what} changed at the same moment"
        case _:
            return f"the Kubernetes API refuses: {_said(error)} ({error.status}, {what})"


def _said(error: ApiException) -> str:
    """The message of the Status object that every refusal has."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason or "without a reason")


def _away(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"has a certificate that is not trusted: {_verified(error.certificate_error)}"
        case TimeoutError():
            return "does not answer in time"
        case aiohttp.ClientConnectorError():
            return f"cannot be reached: {error.strerror or error}"
        case _:
            return f"cannot be used: {str(error) or type(error).__name__}"


def _verified(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
