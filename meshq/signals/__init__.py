"""`meshq signals`: how many replicas each version of each service should have, served in every form in which somebody asks for it."""

GRPC_PORT = 3591
HTTP_PORT = 3592
HTTPS_PORT = 3593
"""The same as HTTP_PORT with TLS, for the kube-apiserver."""
