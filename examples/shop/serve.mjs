// What each Node app of the shop shares: JSON over HTTP, /healthz, and a graceful stop. Node's own library only, and
// nothing about a mesh. An app is a function from request to reply; a Problem becomes its status with {"error": ...}.

import { createServer } from "node:http";

const MAX_BODY = 64 * 1024;
const DRAIN_MS = 10_000;

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function text(document, name) {
  const value = document[name];
  if (typeof value !== "string" || value === "") throw new Problem(400, `${name} must be a text that is not empty`);
  return value;
}

export function whole(document, name, least, most) {
  const value = document[name];
  if (!Number.isInteger(value) || value < least || value > most)
    throw new Problem(400, `${name} must be a whole number from ${least} to ${most}`);
  return value;
}

/** Serves on 127.0.0.1:$PORT until SIGTERM or SIGINT, then finishes the requests at hand and ends. */
export function serve(name, version, defaultPort, handle) {
  let stopping = false;
  const server = createServer(async (incoming, outgoing) => {
    const reply = await answer(incoming, handle);
    const body = JSON.stringify(reply.body) + "\n";
    outgoing.writeHead(reply.status, {
      "Content-Type": "application/json",
      "Content-Length": Buffer.byteLength(body),
      Server: `${name}/${version}`,
      ...(stopping && { Connection: "close" }),
      ...reply.headers,
    });
    outgoing.end(body); // Node itself leaves the body out for HEAD
  });
  // Node would drop an idle connection after 5 s, perhaps just as the next request is on its way.
  server.keepAliveTimeout = 75_000;
  server.listen(Number(process.env.PORT || defaultPort), "127.0.0.1", () =>
    console.log(`${name} ${version} on http://127.0.0.1:${server.address().port}`),
  );
  const stop = () => {
    stopping = true;
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    setTimeout(() => process.exit(0), DRAIN_MS).unref();
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
}

async function answer(incoming, handle) {
  try {
    const url = new URL(incoming.url, "http://localhost");
    const path = url.pathname.split("/").filter(Boolean);
    const body = await bodyOf(incoming);
    if (path.length === 1 && path[0] === "healthz") return { status: 200, body: { status: "ok" } };
    const method = incoming.method === "HEAD" ? "GET" : incoming.method;
    return handle({ method, path, query: url.searchParams, json: () => object(body) });
  } catch (problem) {
    if (problem instanceof Problem) return { status: problem.status, body: { error: problem.message } };
    console.error(problem);
    return { status: 500, body: { error: "a fault of ours" } };
  }
}

async function bodyOf(incoming) {
  const pieces = [];
  let size = 0;
  for await (const piece of incoming) {
    size += piece.length;
    if (size <= MAX_BODY) pieces.push(piece);
  }
  if (size > MAX_BODY) throw new Problem(413, `the body must be of at most ${MAX_BODY} bytes`);
  return Buffer.concat(pieces).toString("utf8");
}

function object(body) {
  let document;
  try {
    document = JSON.parse(body);
  } catch {
    throw new Problem(400, "the body is not JSON");
  }
  if (document === null || typeof document !== "object" || Array.isArray(document))
    throw new Problem(400, "the body is not a JSON object");
  return document;
}
