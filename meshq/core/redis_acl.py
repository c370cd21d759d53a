"""The rights that a sidecar, and whatever else reads the registry of a mesh, needs in Redis: those of one user of its ACL.

They are the mesh's, not the service's: every sidecar reads the picture of all services, says whom it calls, and may be the one who
gives up instances of any service whose leases ran out. What a service may do to another is the broker's to say.
"""

COMMANDS = (
    # asked by the adapters
    *("evalsha", "eval", "xread", "xrevrange", "ping", "role", "select"),
    # by their scripts, which may do no more than their user
    *("time", "info", "exists", "del", "pexpire"),
    *("get", "set"),
    *("hget", "hmget", "hgetall", "hkeys", "hexists", "hset", "hsetnx", "hdel", "hincrby"),
    *("sadd", "srem", "smembers", "sismember"),
    *("zadd", "zrem", "zscore", "zcard", "zrange", "zrangebyscore", "zrangebylex"),
    *("xadd", "xrange"),
)
"""Without `info` all works but one thing: nobody knows that Redis was restarted, so instances may be given up before they had time
to renew. Without `role` a master that Sentinels name is not asked whether it is one."""
CLUSTER_COMMANDS = ("cluster|slots", "asking")
"""Besides, in a Redis Cluster."""


def key_patterns(mesh: str) -> tuple[str, ...]:
    """Of the registry: the mesh as a whole, its services; and of the store."""
    return f"mq:{{{mesh}}}:*", f"mq:{{{mesh}:*", f"meshq:{mesh}:*"


def rules(mesh: str, *, cluster: bool = False) -> tuple[str, ...]:
    """What follows `ACL SETUSER <name> on ><password>`. The user has had no other rights."""
    commands = (*COMMANDS, *CLUSTER_COMMANDS) if cluster else COMMANDS
    patterns = (f"~{pattern}" for pattern in key_patterns(mesh))
    return ("resetkeys", "resetchannels", "-@all", *(f"+{command}" for command in commands), *patterns)
