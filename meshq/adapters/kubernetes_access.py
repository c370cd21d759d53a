"""Where the Kubernetes API is and who we are there: what every pod is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kubernetes.aio import client

from meshq.core.cluster import ClusterFault

FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"


class Access(NamedTuple):
    url: str
    """`https://host:port`"""
    token: Path
    """The file of our token. It is renewed while we run."""
    ca: Path
    """Of the authority that the API's certificate is checked against."""


def in_cluster(environment: Mapping[str, str], folder: Path = FOLDER) -> Access:
    """Of the pod that we run in. Raises ClusterFault outside of one."""
    host, port = environment.get(HOST), environment.get(PORT)
    if not host or not port:
        raise ClusterFault(f"this is no pod of a Kubernetes cluster: {HOST} and {PORT} are not set")
    access = Access(f"https://{f'[{host}]' if ':' in host else host}:{port}", folder / "token", folder / "ca.crt")
    for file in (access.token, access.ca):
        if not file.is_file():
            raise ClusterFault(f"{file} is not there: give the pod a serviceAccountName, and let it mount its token")
    return access


def configuration(access: Access) -> client.Configuration:
    """Raises OSError for files that cannot be read."""
    made = client.Configuration(
        host=access.url,
        api_key={"BearerToken": _header(access)},
        ssl_ca_cert=str(access.ca),
        # Without the environment's proxies: the API is a neighbour of this pod.
        client_session_kwargs={"trust_env": False},
    )
    # Authorities of many clusters lack extensions that Python from 3.13 on insists on; chain and host name are checked all the same.
    made.disable_strict_ssl_verification = True
    made.refresh_api_key_hook = lambda held: held.api_key.update(BearerToken=_header(access))  # type: ignore[assignment]
    return made


def _header(access: Access) -> str:
    return f"Bearer {access.token.read_text('ascii').strip()}"
