// The reviewer's key in this browser: made or brought here, kept by the browser, and never handed to any script.
import { hex, sha256, unbase64 } from "./evidence.js";

function storage(mode, act) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("expunge", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("keys");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const change = opening.result.transaction("keys", mode), asked = act(change.objectStore("keys"));
      change.oncomplete = () => { opening.result.close(); resolve(asked.result); };
      change.onerror = () => reject(change.error);
    };
  });
}

// { privateKey, publicKey (hex), id, since }, or undefined.
export const mine = () => storage("readonly", (keys) => keys.get("mine"));

async function keep(privateKey, raw) {
  const key = { privateKey, publicKey: hex(raw), id: hex(await sha256(raw)), since: new Date().toISOString() };
  await storage("readwrite", (keys) => keys.put(key, "mine"));
  await navigator.storage?.persist?.();  // asks the browser not to clear it when space is short
  return key;
}

export async function make() {
  const pair = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
  return keep(pair.privateKey, new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)));
}

export async function bring(pem) {
  const body = /-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----/.exec(pem);
  if (!body) throw new Error("this file holds no private key in PEM form (PKCS#8, without a password)");
  const bytes = unbase64(body[1].replace(/\s/g, ""));
  let open;
  try {
    open = await crypto.subtle.importKey("pkcs8", bytes, "Ed25519", true, ["sign"]);
  } catch {
    throw new Error("this is no Ed25519 key");
  }
  const { x } = await crypto.subtle.exportKey("jwk", open);  // its public part, which the file does not say by itself
  const closed = await crypto.subtle.importKey("pkcs8", bytes, "Ed25519", false, ["sign"]);
  bytes.fill(0);
  return keep(closed, unbase64(base64url(x)));
}

const base64url = (string) => string.replace(/-/g, "+").replace(/_/g, "/") + "=".repeat((4 - string.length % 4) % 4);

export const canSign = () => window.isSecureContext && "subtle" in crypto && "indexedDB" in window;
