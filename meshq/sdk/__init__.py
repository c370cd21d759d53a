"""The client SDK: what `from meshq import Mesh, Service, Problem` brings. It talks to the sidecar on localhost and to nothing else.

From the app inwards: mesh and ticket (calling), service and context (being called), sync (the same without asyncio), asgi and wsgi
(inside other servers); bodies, problems, operations (values to bytes and back); transport (which way to the sidecar), with
link_transport and http_transport.
"""
