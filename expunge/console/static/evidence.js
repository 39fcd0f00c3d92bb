// What a browser needs to sign and to check evidence by itself: DSSE envelopes, the tree of RFC 9162, C2SP checkpoints.

export const DECISION = "application/vnd.expunge.approval+json";
const text = new TextEncoder();

export const utf8 = (string) => text.encode(string);
export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
export const unhex = (string) => Uint8Array.from(string.match(/../g) ?? [], (pair) => parseInt(pair, 16));
export const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
export const unbase64 = (string) => Uint8Array.from(atob(string), (character) => character.charCodeAt(0));

export async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

function joined(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { all.set(part, at); at += part.length; }
  return all;
}

// ------------------------------------------------------------------------------------------------ envelopes

// RFC 8785 of text, lists and objects; of numbers only whole ones, which are all that a decision could have.
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value !== null && typeof value === "object") {
    return `{${Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
  }
  if (typeof value === "number" && !Number.isSafeInteger(value)) throw new Error("only whole numbers can be signed");
  return JSON.stringify(value);
}

const preAuthentication = (type, payload) =>
  joined(utf8(`DSSEv1 ${utf8(type).length} ${type} ${payload.length} `), payload);

export async function seal(payload, type, key) {
  const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", key.privateKey, preAuthentication(type, payload)));
  return canonical({ payload: base64(payload), payloadType: type, signatures: [{ keyid: key.id, sig: base64(signature) }] });
}

const imported = new Map();
async function verifies(publicKey, signature, message) {
  if (!imported.has(publicKey)) {
    imported.set(publicKey, crypto.subtle.importKey("raw", unhex(publicKey), "Ed25519", false, ["verify"]));
  }
  return crypto.subtle.verify("Ed25519", await imported.get(publicKey), signature, message);
}

// Who signed an envelope, and what it says; an Error names what is wrong with it.
export async function open(envelope, keyring) {
  const { payload, payloadType, signatures: [{ keyid, sig }] } = JSON.parse(envelope);
  const entry = keyring.entries.find((one) => one.key_id === keyid);
  if (!entry) throw new Error("signed by nobody in the keyring");
  if (hex(await sha256(unhex(entry.public_key))) !== keyid) throw new Error("the keyring names a key by another digest");
  const bytes = unbase64(payload);
  if (!await verifies(entry.public_key, unbase64(sig), preAuthentication(payloadType, bytes))) {
    throw new Error("the signature is over other bytes");
  }
  return { entry, payloadType, said: JSON.parse(new TextDecoder().decode(bytes)) };
}

// ------------------------------------------------------------------------------------------------ the tree

const node = (left, right) => sha256(joined(Uint8Array.of(1), left, right));
export const leaf = (envelope) => sha256(joined(Uint8Array.of(0), utf8(envelope)));
const half = (number) => Math.floor(number / 2);  // a shift would end at 32 bits

export async function isIncluded(hash, position, size, proof, root) {
  if (position < 0 || position >= size) return false;
  let at = position, last = size - 1, found = hash;
  for (const sibling of proof) {
    if (last === 0) return false;
    if (at % 2 || at === last) {
      found = await node(sibling, found);
      while (at && at % 2 === 0) { at = half(at); last = half(last); }
    } else {
      found = await node(found, sibling);
    }
    at = half(at); last = half(last);
  }
  return last === 0 && hex(found) === hex(root);
}

export async function isConsistent(first, second, proof, firstRoot, secondRoot) {
  if (first < 0 || first > second) return false;
  if (first === second) return proof.length === 0 && hex(firstRoot) === hex(secondRoot);
  if (first === 0) return proof.length === 0;
  if (!proof.length) return false;
  const path = Number.isInteger(Math.log2(first)) ? [firstRoot, ...proof] : proof;
  let at = first - 1, last = second - 1;
  while (at % 2) { at = half(at); last = half(last); }
  let older = path[0], newer = path[0];
  for (const sibling of path.slice(1)) {
    if (last === 0) return false;
    if (at % 2 || at === last) {
      older = await node(sibling, older);
      newer = await node(sibling, newer);
      while (at && at % 2 === 0) { at = half(at); last = half(last); }
    } else {
      newer = await node(newer, sibling);
    }
    at = half(at); last = half(last);
  }
  return last === 0 && hex(older) === hex(firstRoot) && hex(newer) === hex(secondRoot);
}

// ------------------------------------------------------------------------------------------------ checkpoints

// The checkpoint in a signed note; an Error unless an operator of this keyring signed it.
export async function openCheckpoint(note, keyring) {
  const form = /^(([^\s+]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n)\n— ([^\s+]+) ([A-Za-z0-9+/=]+)\n$/.exec(note);
  if (!form) throw new Error("the checkpoint is not in the form that is signed");
  const [, body, origin, size, root, name, signed] = form, bytes = unbase64(signed);
  if (name !== origin) throw new Error("the checkpoint is signed in another name than its ledger's");
  for (const entry of keyring.entries.filter((one) => one.roles.includes("operator"))) {
    const named = await sha256(joined(utf8(origin), Uint8Array.of(10, 1), unhex(entry.public_key)));
    if (hex(named.slice(0, 4)) !== hex(bytes.slice(0, 4))) continue;
    if (!await verifies(entry.public_key, bytes.slice(4), utf8(body))) break;
    return { origin, size: Number(size), root: unbase64(root), key: entry.public_key };
  }
  throw new Error("the checkpoint is signed by no operator of the keyring");
}

// ------------------------------------------------------------------------------------------------ the server

export async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({ problem: `the server answered ${answer.status}`, remedy: "" }));
  throw new Error(said.remedy ? `${said.problem}: ${said.remedy}` : said.problem);
}
