"""A KEDA client's stubs, made by protoc from a .proto as KEDA's own are: what drives the server is not what it is built of."""

import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).parents[1] / "meshq" / "adapters" / "keda_proto" / "externalscaler.proto"


def generate(proto: str, folder: Path) -> Path:
    """`folder`, with externalscaler_pb2 and externalscaler_pb2_grpc in it."""
    (folder / PROTO.name).write_text(proto)
    outs = [f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *outs, PROTO.name], check=True, cwd=folder)
    return folder
