"""broker-config/definitions.json, made from what meshq/core/topology.py says: `python -m tests.servers.definitions`.

The file is for the mesh `default`, which is a virtual host of that name. For another mesh import it into another one, with
`POST /api/definitions/<virtual host>` of the management API; that takes no notice of the names in the file.
"""

import json
from pathlib import Path
from typing import Any

from meshq.core.topology import Topology, shared

BROKER_CONFIG = Path(__file__).parents[2] / "broker-config"
FILE = BROKER_CONFIG / "definitions.json"
VHOST = "default"


def definitions(topology: Topology, vhost: str) -> dict[str, Any]:
    """`topology` in the form that RabbitMQ exports and imports."""
    exchanges = [
        {
            "name": exchange.name,
            "vhost": vhost,
            "type": exchange.kind,
            "durable": True,
            "auto_delete": False,
            "internal": exchange.internal,
            "arguments": dict(exchange.arguments),
        }
        for exchange in topology.exchanges
    ]
    queues = [
        {
            "name": queue.name,
            "vhost": vhost,
            "durable": queue.durable,
            "auto_delete": False,
            "arguments": dict(queue.arguments),
        }
        for queue in topology.queues
    ]
    bindings: list[dict[str, Any]] = [
        {
            "source": binding.source,
            "vhost": vhost,
            "destination": binding.destination,
            "destination_type": "exchange" if binding.to_exchange else "queue",
            "routing_key": binding.key,
            "arguments": {},
        }
        for binding in topology.bindings
    ]
    return {"vhosts": [{"name": vhost}], "exchanges": exchanges, "queues": queues, "bindings": bindings}


def text() -> str:
    """What the file holds, a line for each thing, so that a change reads as one in a diff."""
    sections = []
    for name, items in definitions(shared(), VHOST).items():
        lines = ",\n".join(f"    {json.dumps(item)}" for item in items)
        sections.append(f'  "{name}": [\n{lines}\n  ]')
    return "{\n" + ",\n".join(sections) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text())
