// orders, version 2: the API of orders.py in another language, with three more fields in each order: currency,
// unit_cents and placed_at. Callers of version 1 keep version 1; both run side by side, and both publish orders.placed.

import { randomBytes } from "node:crypto";
import { Problem, serve, text, whole } from "./serve.mjs";

const VERSION = "2.0.0";
const KEPT = 10_000;
const PUBLISH_MS = 5_000;

const orders = new Map(); // oldest first

function handle(request) {
  const { method, path } = request;
  const [first, id, verb] = path;
  if (first === "orders") {
    if (method === "POST" && path.length === 1) return place(request.json());
    if (method === "GET" && path.length === 1) return newest(request.query.get("limit") ?? "20");
    if (method === "GET" && path.length === 2) return { status: 200, body: find(id) };
    if (method === "POST" && path.length === 3 && verb === "cancel") return cancel(id);
  }
  throw new Problem(404, "no such page");
}

function place(wish) {
  const quantity = whole(wish, "quantity", 1, 100);
  const unitCents = whole(wish, "unit_cents", 1, 1_000_000);
  const order = {
    // The leading digit says which version holds it; the rest is random, so that a restart repeats no id.
    id: `2-${randomBytes(8).toString("hex")}`,
    state: "placed",
    customer: text(wish, "customer"),
    item: text(wish, "item"),
    quantity,
    unit_cents: unitCents,
    total_cents: quantity * unitCents,
    currency: "EUR",
    charge: text(wish, "charge"),
    placed_at: new Date().toISOString(),
  };
  orders.set(order.id, order);
  if (orders.size > KEPT) orders.delete(orders.keys().next().value);
  publish("orders.placed", order);
  return { status: 201, body: order, headers: { Location: `/orders/${order.id}` } };
}

async function publish(event, order) {
  const sidecar = process.env.MESHQ_URL; // without a mesh there is nobody to tell
  if (!sidecar) return;
  try {
    const answer = await fetch(`${sidecar}/v1/publish/${event}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "Ce-Id": order.id },
      body: JSON.stringify(order),
      signal: AbortSignal.timeout(PUBLISH_MS),
    });
    if (!answer.ok) throw new Error(await answer.text());
  } catch (error) {
    console.log(`${event} of ${order.id} was not published: ${error.message}`);
  }
}

function newest(limit) {
  if (!/^[0-9]+$/.test(limit) || Number(limit) < 1 || Number(limit) > 100)
    throw new Problem(400, "limit must be a whole number from 1 to 100");
  return { status: 200, body: { orders: [...orders.values()].reverse().slice(0, Number(limit)), count: orders.size } };
}

function find(id) {
  const order = orders.get(id);
  if (order === undefined) throw new Problem(404, `there is no order ${id}`);
  return order;
}

function cancel(id) {
  const order = find(id);
  if (order.state === "cancelled") throw new Problem(409, `order ${id} was cancelled before`);
  order.state = "cancelled";
  return { status: 200, body: order };
}

serve("orders", VERSION, 8083, handle);
