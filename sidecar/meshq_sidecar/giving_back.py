"""A waited call that did not start goes to its queue again, for another instance or for this one later."""

from meshq.core import topology
from meshq.core.message import Request, encode_request
from meshq.ports import Broker, Delivery, Publication


def give_back(broker: Broker, topic: str, delivery: Delivery, copy: Request) -> None:
    """`copy` is the call as it should go on, with what it has left now. As a copy, because the flag that a requeue sets would
    forbid a call that must not be repeated (and a copy can carry the counts). Without a connection to publish on, a requeue is
    what is left. One whose time is over ends here."""
    if copy.left_ms is not None and copy.left_ms <= 0:
        delivery.ack()
        return
    key = topology.key_key(topic, topology.partition_of(copy.key)) if copy.key else topology.call_key(topic)
    body = encode_request(copy)
    publication = Publication(topology.CALLS, key, body, copy.id, "call", delivery.reply_to, copy.left_ms)
    if broker.send(publication):
        delivery.ack()
    else:
        delivery.requeue()
