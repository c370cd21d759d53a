"""tasks: what a Celery user would write as tasks. A task is a handler; sending to it durably is queueing it.

The queue is the service's: start more of this program (`replicas` in mesh.yaml) and they share the work. How many tasks one of them
runs at once its sidecar says (MESHQ_APP_CONCURRENCY).
"""

from meshq import Context, Service

tasks = Service("tasks", version="1.0.0")


@tasks.post("/resize")
def resize(picture: dict[str, int]) -> dict[str, int]:
    """A plain function runs in a thread, so it may take its time."""
    return {"width": picture["width"] // 2, "height": picture["height"] // 2}


@tasks.post("/fetch")
async def fetch(page: dict[str, str], ctx: Context) -> dict[str, object]:
    """Fails twice. It comes again after what `retry` says, and waits for that in the broker: no worker is held up."""
    if ctx.attempt < 3:
        ctx.retry(after=1, reason=f"{page['url']} is busy")
    return {"url": page["url"], "attempts": ctx.attempt}


@tasks.post("/remind")
async def remind(reminder: dict[str, str]) -> str:
    return f"it is time to {reminder['what']}"


@tasks.post("/divide")
async def divide(numbers: dict[str, int], ctx: Context) -> float:
    """No second attempt makes this right: it is a dead letter at once, and its sender is told why."""
    if numbers["by"] == 0:
        ctx.reject("nobody can divide by 0")
    return numbers["what"] / numbers["by"]


if __name__ == "__main__":
    tasks.run()
