"""`meshq scale manifest`: YAML that lets a Kubernetes cluster follow meshq's figures."""

from enum import StrEnum
from typing import Annotated

import typer

from meshq.core.scaling_values import DEFAULT_MAX


class For(StrEnum):
    KEDA = "keda"
    HPA = "hpa"
    PROMETHEUS_ADAPTER = "prometheus-adapter"
    DIRECT = "direct"


def manifest(
    service: Annotated[str, typer.Argument(metavar="SERVICE[@MAJOR]", help="orders, orders@2")],
    kind: Annotated[
        For,
        typer.Option(
            "--for",
            help="KEDA; a HorizontalPodAutoscaler that asks meshq, or prometheus-adapter; or meshq itself changes the replicas.",
        ),
    ],
    version: Annotated[
        str | None, typer.Option(metavar="MAJOR", help="The version that the Deployment runs, where there are several.")
    ] = None,
    namespace: Annotated[str, typer.Option(metavar="NS", help="Of the Deployment.")] = "default",
    deployment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name, where it is not the service's.")
    ] = None,
    least: Annotated[
        int | None, typer.Option("--min", metavar="N", help="Least replicas; as low as it can go by default.")
    ] = None,
    most: Annotated[int, typer.Option("--max", metavar="N", help="Most replicas.")] = DEFAULT_MAX,
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="What a message may wait, such as 10s, other than the service's scaling policy says; KEDA.",
        ),
    ] = None,
    quantile: Annotated[
        float | None, typer.Option(metavar="Q", help="For this part of all messages, such as 0.95; KEDA.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Of `meshq signals`; meshq-signals in the same namespace by default."),
    ] = None,
    kubernetes: Annotated[str, typer.Option(metavar="VERSION", help="The cluster's.")] = "1.35",
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="KEDA asks Prometheus at this URL, not `meshq signals`.")
    ] = None,
    scale_to_zero: Annotated[
        bool, typer.Option("--scale-to-zero", help="The cluster has the feature gate HPAScaleToZero on.")
    ] = False,
    with_apiservice: Annotated[
        bool,
        typer.Option("--with-apiservice", help="With it what makes `meshq signals` serve the external metrics; HPA."),
    ] = False,
) -> None:
    """Print what makes a cluster scale a service, with the traps explained. `kubectl apply -f -` takes it."""
    from meshq.kube.scale_manifests import manifest as written
    from meshq.kube.scale_plan import BadPlan, Plan, parse_kubernetes, parse_version

    name, at, major = service.partition("@")
    if at and version is not None and version != major:
        raise typer.BadParameter(f"{service} names another version already", param_hint="--version")
    said = major if at else version
    try:
        plan = Plan(
            service=name,
            major=None if said is None else parse_version(said),
            namespace=namespace,
            deployment=deployment or "",
            min=least,
            max=most,
            wait=wait,
            quantile=quantile,
            address=address or "",
            kubernetes=parse_kubernetes(kubernetes),
            prometheus=prometheus or "",
            scale_to_zero=scale_to_zero,
            with_apiservice=with_apiservice,
        )
        text = written(plan, kind.value)
    except BadPlan as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from error
    typer.echo(text, nl=False)
