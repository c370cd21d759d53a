"""What a type checker has to find in a user's code: on each line that ends with `# wrong`, an error, and on no other."""

from meshq import Context, Mesh, Reply, Service

orders = Service("orders", version=2)  # wrong


async def calls(mesh: Mesh) -> None:
    await mesh.call("orders")  # wrong
    await mesh.call("orders", "/a", timeout="2s")  # wrong
    total = await mesh.call("orders", "/a", returns=str)
    print(total.ready)  # wrong
    await mesh.publish("a.b", key=7)  # wrong
    print(mesh.watch("orders").ready)  # wrong


@orders.get("/a")
async def handler(ctx: Context) -> Reply:
    if ctx.attempt == 1:
        ctx.retry("soon")  # wrong
    return Reply(status="200")  # wrong


print(handler())  # wrong
