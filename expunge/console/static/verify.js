// Verifies in this browser what the server says of the ledger: signatures, inclusion, and that it only ever grew.
import { ask, hex, isConsistent, isIncluded, leaf, open, openCheckpoint, sha256, unhex, utf8 } from "./evidence.js";
import { by, element } from "./elements.js";

const MEMORY = "expunge:checkpoint";
const said = by("verification");

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(MEMORY));
  } catch {
    return null;
  }
}

function show(how, ...lines) {
  said.className = `verification ${how}`;
  said.dataset.result = how;
  said.replaceChildren(...lines.map((line) => element("span", line)));
}

// What an entry says, from its own bytes: a server's words about it are not needed.
function words(payloadType, payload) {
  if (payloadType === "application/vnd.expunge.approval+json") {
    return `${payload.decision} ${payload.run}${payload.waives?.length ? `, waiving ${payload.waives.join(", ")}` : ""}`;
  }
  const about = payload.predicate ?? payload, kind = payload.predicateType?.split(":")[3] ?? "policy";
  const who = about.run ?? about.receipt?.request_id ?? about.request_id ?? about.model ?? about.person ?? about.name ?? about.by ?? "";
  const what = about.room ?? about.state ?? about.change ?? about.what ?? "";
  return `${kind}: ${who}${what ? `, ${String(what).replaceAll("_", " ")}` : ""}`;
}

async function verify() {
  const keyring = await (await ask("/api/v1/ledger/keyring")).json();
  const note = await (await ask("/api/v1/ledger/checkpoint")).text();
  const head = await openCheckpoint(note, keyring), before = remembered();
  let grew = "first seen by this browser: keep a checkpoint elsewhere, and compare";
  if (before) {
    if (before.origin !== head.origin) throw new Error("this is another ledger than the one that this browser remembers");
    if (before.key !== head.key) throw new Error("the checkpoint is signed by another key than before; if the operator’s key was rotated, forget the old checkpoint");
    if (before.size > head.size) throw new Error(`the ledger has ${head.size} entries, and this browser has seen ${before.size}`);
    const answer = await (await ask(`/api/v1/ledger/consistency?first=${before.size}&size=${head.size}`)).json();
    if (!await isConsistent(before.size, head.size, answer.proof.map(unhex), unhex(before.root), head.root)) {
      throw new Error("the ledger does not begin with what this browser has seen of it");
    }
    grew = `it begins with the ${before.size.toLocaleString("en")} entries that this browser has seen before`;
  }
  const rows = [...document.querySelectorAll("tr[data-position]")];
  let wrong = 0;
  for (let at = 0; at < rows.length; at += 100) {
    const some = rows.slice(at, at + 100), query = new URLSearchParams({ size: head.size });
    some.forEach((row) => query.append("position", row.dataset.position));
    const { entries } = await (await ask(`/api/v1/ledger/proofs?${query}`)).json();
    for (const row of some) wrong += await check(row, entries, keyring, head) ? 0 : 1;
  }
  if (wrong) throw new Error(`${wrong} of the entries shown ${wrong === 1 ? "is" : "are"} not in the ledger as shown`);
  localStorage.setItem(MEMORY, JSON.stringify({ origin: head.origin, size: head.size, root: hex(head.root), key: head.key }));
  show("good", `Verified in this browser: ${rows.length} ${rows.length === 1 ? "entry" : "entries"} shown, signatures and inclusion in a ledger of ${head.size.toLocaleString("en")}; ${grew}.`);
}

async function check(row, entries, keyring, head) {
  const cell = row.querySelector(".checked"), position = Number(row.dataset.position);
  try {
    const entry = entries.find((one) => one.position === position);
    if (!entry) throw new Error("it was not handed out");
    if (hex(await sha256(utf8(entry.envelope))) !== row.dataset.sha256) throw new Error("its digest is another");
    if (!await isIncluded(await leaf(entry.envelope), position, head.size, entry.proof.map(unhex), head.root)) {
      throw new Error("it is not in the signed tree");
    }
    const { entry: signer, payloadType, said: payload } = await open(entry.envelope, keyring);
    if (signer.person !== row.querySelector(".by").textContent) throw new Error(`${signer.person} has signed it`);
    cell.replaceChildren(element("span", "✓", { "aria-hidden": "true" }), ` ${words(payloadType, payload)}`);
    cell.className = "checked good";
    return true;
  } catch (error) {
    cell.replaceChildren(element("span", "✗", { "aria-hidden": "true" }), ` ${error.message}`);
    cell.className = "checked bad";
    row.classList.add("bad");
    return false;
  }
}

function showMemory() {
  const place = by("remembered"), known = remembered();
  if (place && known) place.textContent = `${known.origin}\n${known.size} entries\nroot ${known.root}\noperator’s key ${known.key}`;
}

async function begin() {
  show("busy", "Verifying…");
  try {
    await verify();
  } catch (error) {
    show("bad", `This does not verify: ${error.message}.`);
    document.body.classList.add("alarm");
  }
  showMemory();
}

by("forget")?.addEventListener("click", () => { localStorage.removeItem(MEMORY); location.reload(); });
for (const button of document.querySelectorAll("button[data-view]")) {
  button.addEventListener("click", () => {
    document.querySelector("table.trail").classList.toggle("timeline", button.dataset.view === "timeline");
    for (const one of document.querySelectorAll("button[data-view]")) one.setAttribute("aria-pressed", String(one === button));
  });
}
begin();
