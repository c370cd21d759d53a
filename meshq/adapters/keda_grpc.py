"""The gRPC server of KEDA's external scaler contract (keda_proto/externalscaler.proto): all of its five calls.

A stream ends with the client, with a client that no longer answers pings, and without an error when we stop: KEDA comes back after
such an end in two seconds, and after an error ever later.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Protocol, cast

import grpc

from meshq.adapters.keda_proto import externalscaler_pb2 as pb
from meshq.adapters.tls_serving import Served
from meshq.core.errors import Code, Refused, refuse

SERVICE = "externalscaler.ExternalScaler"
MOST_STREAMS = 10_000
GRACE = 2.0
"""Seconds in which what was asked before the end is still answered."""
OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a second server on the same port takes half of the calls in silence
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

_STATUS = {
    Code.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Code.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


class Scaler(Protocol):
    """What answers: meshq.signals.keda.Scaler. `metadata` is that of the trigger. Raises Refused with a code of _STATUS."""

    metric: str
    target: int

    def close(self) -> None: ...
    def check(self, metadata: Mapping[str, str]) -> None: ...
    def desired(self, metadata: Mapping[str, str]) -> int: ...
    def is_active(self, metadata: Mapping[str, str]) -> bool: ...
    def activity(self, metadata: Mapping[str, str]) -> AsyncIterator[bool]: ...


class KedaServer:
    """One server on one address; `close` closes the scaler too."""

    def __init__(self, scaler: Scaler, most_streams: int = MOST_STREAMS) -> None:
        self._scaler = scaler
        self._most_streams = most_streams
        self._streams = 0
        self._closing = asyncio.Event()
        self._server: Any = None

    async def start(self, host: str, port: int, tls: Served | None = None) -> int:
        """Returns the port, which for 0 is a free one. Raises OSError when it is taken."""
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._methods()),))
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = server.add_insecure_port(where) if tls is None else server.add_secure_port(where, _credentials(tls))
        except RuntimeError as error:
            await server.stop(None)
            raise OSError(
                f"{host} port {port} cannot be listened on: is it taken, or {host!r} no address of here?"
            ) from error
        await server.start()
        self._server = server
        return int(bound)

    async def close(self) -> None:
        self._closing.set()
        self._scaler.close()
        if self._server is not None:
            await self._server.stop(GRACE)

    # --- the calls ----------------------------------------------------------------------------------------------------------

    def _methods(self) -> dict[str, Any]:
        ref, spec, active = pb.ScaledObjectRef, pb.GetMetricSpecResponse, pb.IsActiveResponse
        once, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return {
            "IsActive": _method(once, self._is_active, ref, active),
            "StreamIsActive": _method(stream, self._stream_is_active, ref, active),
            "GetMetricSpec": _method(once, self._metric_spec, ref, spec),
            "GetMetrics": _method(once, self._metrics, pb.GetMetricsRequest, pb.GetMetricsResponse),
            "StreamMetricSpec": _method(stream, self._stream_metric_spec, ref, spec),
        }

    async def _is_active(self, asked: pb.ScaledObjectRef, context: Any) -> pb.IsActiveResponse:
        try:
            return pb.IsActiveResponse(result=self._scaler.is_active(asked.scalerMetadata))
        except Refused as refused:
            return cast(pb.IsActiveResponse, await _abort(context, refused))

    async def _metric_spec(self, asked: pb.ScaledObjectRef, context: Any) -> pb.GetMetricSpecResponse:
        try:
            return self._specs(asked)
        except Refused as refused:
            return cast(pb.GetMetricSpecResponse, await _abort(context, refused))

    async def _metrics(self, asked: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:
        """By whatever name: there is one metric, and KEDA gives the value the name that its HPA asks for."""
        try:
            replicas = self._scaler.desired(asked.scaledObjectRef.scalerMetadata)
        except Refused as refused:
            return cast(pb.GetMetricsResponse, await _abort(context, refused))
        value = pb.MetricValue(
            metricName=asked.metricName or self._scaler.metric, metricValue=replicas, metricValueFloat=float(replicas)
        )
        return pb.GetMetricsResponse(metricValues=[value])

    async def _stream_is_active(self, asked: pb.ScaledObjectRef, context: Any) -> AsyncIterator[pb.IsActiveResponse]:
        try:
            with self._stream():
                async with aclosing(cast(Any, self._scaler.activity(asked.scalerMetadata))) as activity:
                    async for active in activity:
                        yield pb.IsActiveResponse(result=active)
        except Refused as refused:
            await _abort(context, refused)

    async def _stream_metric_spec(
        self, asked: pb.ScaledObjectRef, context: Any
    ) -> AsyncIterator[pb.GetMetricSpecResponse]:
        """It never changes."""
        try:
            with self._stream():
                yield self._specs(asked)
                await self._closing.wait()
        except Refused as refused:
            await _abort(context, refused)

    def _specs(self, asked: pb.ScaledObjectRef) -> pb.GetMetricSpecResponse:
        self._scaler.check(asked.scalerMetadata)
        target = self._scaler.target
        spec = pb.MetricSpec(metricName=self._scaler.metric, targetSize=target, targetSizeFloat=float(target))
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    @contextmanager
    def _stream(self) -> Iterator[None]:
        if self._streams >= self._most_streams:
            raise refuse(Code.OVERLOADED, f"all {self._most_streams} streams of this server are in use")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1


def _method(kind: Any, answer: Any, request: Any, response: Any) -> Any:
    return kind(answer, request_deserializer=request.FromString, response_serializer=response.SerializeToString)


async def _abort(context: Any, refused: Refused) -> Any:
    """Never returns."""
    await context.abort(_STATUS[refused.problem.code], refused.problem.detail)


def _credentials(tls: Served) -> Any:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.cert)], root_certificates=tls.client_ca, require_client_auth=tls.client_ca is not None
    )
