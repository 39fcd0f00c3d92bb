// Asking for a change, as the page's own session.
import { ask } from "./evidence.js";

export const change = (path, method, body) => ask(path, {
  method, ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  headers: { "Content-Type": "application/json", "X-CSRF-Token": document.querySelector("meta[name=csrf]").content },
});
