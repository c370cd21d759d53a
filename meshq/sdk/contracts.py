"""What a service promises, as documents: OpenAPI 3.1 of its routes, AsyncAPI 3.0 of its queues and events. The same handlers make the
same document, key for key."""

from meshq.sdk.contracts_asyncapi import asyncapi
from meshq.sdk.contracts_openapi import openapi

__all__ = ["asyncapi", "openapi"]
