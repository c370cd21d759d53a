// billing: charges a card.
//
//   POST /charges   {"reference", "amount_cents"} -> 201 with the charge, or 402 where the card is declined
//
// It remembers nothing: a charge's id is made of its reference, so asking twice is one charge, and any number of
// replicas give the same answer.

import { createHash } from "node:crypto";
import { Problem, serve, text, whole } from "./serve.mjs";

const VERSION = "1.1.0";
const CARD_LIMIT_CENTS = 100_000;

function handle(request) {
  if (request.method === "POST" && request.path.join("/") === "charges") return charge(request.json());
  throw new Problem(404, "no such page");
}

function charge(wish) {
  const reference = text(wish, "reference");
  const amountCents = whole(wish, "amount_cents", 1, 10_000_000);
  if (amountCents > CARD_LIMIT_CENTS) throw new Problem(402, `the card is good for ${CARD_LIMIT_CENTS} cents`);
  const id = "ch-" + createHash("sha256").update(reference).digest("hex").slice(0, 16);
  return { status: 201, body: { id, reference, amount_cents: amountCents, state: "captured" } };
}

serve("billing", VERSION, 8081, handle);
