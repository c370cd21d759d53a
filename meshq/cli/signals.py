"""`meshq signals`: the server of scaling signals."""

import os
from typing import Annotated

import typer

from meshq.cli.exits import BAD_SETTINGS, FAILED, leave
from meshq.cli.listening import listen_address
from meshq.signals import GRPC_PORT, HTTP_PORT, HTTPS_PORT


def signals(
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="For KEDA; 0 for a free port.")] = GRPC_PORT,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="/metrics, /v1/scale.")] = HTTP_PORT,
    https_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The same and the External Metrics API, where there is a certificate.")
    ] = HTTPS_PORT,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS", help="127.0.0.1 for this machine alone.", callback=listen_address)
    ] = "0.0.0.0",
) -> None:
    """Run the server of scaling signals: for KEDA, the HPA, Prometheus, or Deployments that it scales itself.

    MESHQ_BROKER_URL, MESHQ_REGISTRY_URL and MESHQ_MESH say which mesh; MESHQ_MANAGEMENT_URL, or MESHQ_PROMETHEUS_URLS with every node
    of the broker, where its figures come from. MESHQ_SIGNALS_CERT and MESHQ_SIGNALS_KEY (and MESHQ_SIGNALS_CLIENT_CA) turn on TLS.
    With MESHQ_SIGNALS_SERVICE (our own, namespace/name) it is looked whether somebody else serves the cluster's external metrics.
    MESHQ_SIGNALS_DIRECT names Deployments to scale from here: shop/orders-v2=orders.v2. `meshq scale manifest` prints what a cluster
    needs. Any number may run; one of them leads. SIGTERM ends it.
    """
    from meshq.settings import BadSettings

    try:
        from meshq.signals import program, settings
        from meshq.signals.app import Ports

        ended_well = program.run(settings.read(os.environ), listen, Ports(grpc_port, http_port, https_port))
    except ImportError as missing:  # what speaks to Kubernetes is imported only where it is needed
        package = str(missing.name).partition(".")[0]
        leave(BAD_SETTINGS, f"{package} is not installed: pip install 'meshq[signals]'")
    except BadSettings as bad:
        leave(BAD_SETTINGS, *map(str, bad.faults))
    if not ended_well:
        leave(FAILED, "it could not look at the mesh any more, as its log says; start it again")
