// The page about the key in this browser.
import { ask } from "./evidence.js";
import { bring, canSign, make, mine } from "./keys.js";
import { by, element } from "./elements.js";

async function show() {
  const key = await mine(), place = by("mine");
  if (!key) return place.replaceChildren(element("p", "There is no key in this browser yet.", { class: "empty" }));
  const keyring = await ask("/api/v1/ledger/keyring").then((answer) => answer.json()).catch(() => ({ entries: [] }));
  const entry = keyring.entries.find((one) => one.key_id === key.id), person = entry?.person ?? "YOU";
  const counts = entry && (entry.valid_until ?? null) === null;
  place.replaceChildren(
    element("h2", counts ? `${entry.person}’s key` : "A key that does not count yet"),
    element("dl", [
      element("div", [element("dt", "Key"), element("dd", element("code", key.id))]),
      element("div", [element("dt", "Public part"), element("dd", element("code", key.publicKey, { id: "public" }))]),
      element("div", [element("dt", "In this browser since"), element("dd", key.since.slice(0, 16).replace("T", " "))]),
      ...(entry ? [element("div", [element("dt", "Roles"), element("dd", entry.roles.join(", "))])] : [])], { class: "digests" }),
    ...(counts ? [] : [element("p", entry ? `It was ${entry.ended}. Make another.` : "An admin enters it; you tell them the public part by a way on which they know you:", { class: "note warn" }),
      ...(entry ? [] : [element("pre", `expunge keys new ${person} --role reviewer --as ADMIN --public-key ${key.publicKey}`)])]));
  for (const one of document.querySelectorAll(".public")) one.textContent = key.publicKey;
}

async function change(act) {
  const outcome = by("outcome");
  outcome.replaceChildren();
  try {
    if (await mine() && !window.confirm("The key that lies in this browser now will be gone. Go on?")) return;
    await act();
    outcome.replaceChildren(element("p", "The key lies in this browser now.", { class: "note good" }));
    await show();
  } catch (error) {
    outcome.replaceChildren(element("p", error.message, { class: "note bad" }));
  }
}

if (canSign()) {
  by("make").addEventListener("click", () => change(make));
  by("file").addEventListener("change", (event) => change(async () => bring(await event.target.files[0].text())));
  show().catch((error) => by("mine").replaceChildren(element("p", error.message, { class: "note bad" })));
} else {
  by("mine").replaceChildren(element("p", "A browser keeps keys only for https, or for this machine’s own address.", { class: "note bad" }));
}
