"""What a KEDA trigger's metadata means, and which faults are told."""

import pytest

from meshq.core.errors import Code, Refused
from meshq.signals.figures import NO_WISHES, Wishes
from meshq.signals.keda_metadata import Asked, read


@pytest.mark.parametrize(
    ("metadata", "asked"),
    [
        ({"service": "orders"}, Asked("orders", None, NO_WISHES)),
        ({"service": "orders", "version": ""}, Asked("orders", None, NO_WISHES)),
        ({"service": " orders ", "version": "2"}, Asked("orders", 2, NO_WISHES)),
        ({"service": "orders", "version": "^2"}, Asked("orders", 2, NO_WISHES)),
        ({"service": "orders", "version": "2.1.0"}, Asked("orders", 2, NO_WISHES)),
        ({"service": "orders", "version": "~0.3"}, Asked("orders", 0, NO_WISHES)),
        ({"serviceFromEnv": "orders", "versionFromEnv": "2"}, Asked("orders", 2, NO_WISHES)),
        (
            {
                "service": "orders", "wait": "2s", "quantile": "0.99", "min": "1", "max": "30", "lead": "500ms",
                "idle": "5m", "stabilization": "0s",
            },
            Asked("orders", None, Wishes(2.0, 0.99, 1, 30, 0.5, 300.0, 0.0)),
        ),
        ({"service": "orders", "min": "30"}, Asked("orders", None, Wishes(min=30))),
        (
            {"service": "orders", "scalerAddress": "meshq-signals:3591", "enableTLS": "true", "caCert": "x"},
            Asked("orders", None, NO_WISHES),
        ),
    ],
)  # fmt: skip
def test_what_is_asked(metadata: dict[str, str], asked: Asked) -> None:
    assert read(metadata) == asked


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "service: is required"),
        ({"service": ""}, "service: is required"),
        ({"service": "Orders"}, "service: 'Orders' is not a service name"),
        ({"service": "orders", "version": ">=2,<4"}, "version: '>=2,<4' does not say one major"),
        ({"service": "orders", "version": "latest"}, "version: 'latest' does not say one major"),
        ({"service": "orders", "version": "two"}, "version: 'two' is not a version selector"),
        ({"service": "orders", "version": "9999999999"}, "version: '9999999999' is not a "),
        ({"service": "orders", "wait": "10"}, "wait: '10' is not a duration"),
        ({"service": "orders", "wait": "0s"}, "wait: 0s cannot be met"),
        ({"service": "orders", "quantile": "95"}, "quantile: '95' is not a part of the messages"),
        ({"service": "orders", "min": "-1"}, "min: '-1' is not a number of replicas"),
        ({"service": "orders", "max": "0"}, "max: 0 would let nothing run"),
        ({"service": "orders", "min": "5", "max": "4"}, "min: 5 is above max, which is 4"),
        ({"service": "orders", "quantil": "0.9"}, "quantil: is no key here; quantile is meant?"),
        ({"Service": "orders"}, "Service: is no key here; service is meant?"),
    ],
)
def test_what_is_wrong_with_it(metadata: dict[str, str], said: str) -> None:
    with pytest.raises(Refused) as refused:
        read(metadata)
    assert refused.value.problem.code is Code.BAD_REQUEST
    assert said in refused.value.problem.detail


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(Refused) as refused:
        read({"version": "x", "max": "many", "lead": "soon"})
    detail = refused.value.problem.detail
    assert all(f"{key}: " in detail for key in ("service", "version", "max", "lead"))
