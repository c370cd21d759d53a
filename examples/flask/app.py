"""guestbook: a Flask app, whose views call the mesh without asyncio, and which has handlers for the mesh below /mesh.

For people:      GET /   POST /
For the mesh:    GET /mesh/count of `guestbook`, and the event `words.banned`

The sidecar asks at the app's port, as it asks any app. Handlers may be async all the same: they run on an event loop in a thread.
"""

from flask import Flask, abort, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from meshq import Problem, Service, SyncMesh

mesh = SyncMesh()
guestbook = Service("guestbook", version="1.0.0")
entries: list[str] = []


def create_app() -> Flask:
    app = Flask(__name__)
    app.add_url_rule("/", view_func=show)
    app.add_url_rule("/", view_func=write, methods=["POST"])
    handlers = guestbook.wsgi()
    handlers.start("/mesh")
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/mesh": handlers})  # type: ignore[method-assign]
    return app


# --- for people -------------------------------------------------------------------------------------------------------------


def show() -> list[str]:
    return entries


def write() -> tuple[dict[str, str], int]:
    text = request.get_data(as_text=True)
    try:
        rude = mesh.call("words", "POST /check", {"text": text}, timeout=5)["rude"]
    except Problem as problem:
        abort(problem.status, problem.detail)
    if rude:
        abort(422, f"not in this book: {', '.join(rude)}")
    entries.append(text)
    return {"written": text}, 201


# --- for the mesh -----------------------------------------------------------------------------------------------------------


@guestbook.get("/count")
async def count() -> dict[str, int]:
    return {"entries": len(entries)}


@guestbook.on("words.banned@1")
def erase(event: dict[str, str]) -> None:
    entries[:] = [each for each in entries if event["word"] not in each.lower().split()]
