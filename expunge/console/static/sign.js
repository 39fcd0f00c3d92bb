// Deciding on a run: hashes again what the server hands out, shows what would be signed, signs it here, hands it in.
import { DECISION, ask, canonical, hex, seal, sha256, utf8 } from "./evidence.js";
import { canSign, mine } from "./keys.js";
import { by, element, short } from "./elements.js";

const form = by("sign");
if (form) prepare().catch((error) => say(by("checks"), error.message, "bad"));

function say(where, message, how) {
  where.replaceChildren(element("p", message, { class: `note ${how}` }));
}

// Everything that a decision names, computed from the bytes themselves.
async function subject(run) {
  const files = {};
  for (const what of ["request", "candidate", "report", "policy"]) {
    files[what] = new Uint8Array(await (await ask(`/api/v1/runs/${run}/evidence/${what}`)).arrayBuffer());
  }
  const read = (what) => JSON.parse(new TextDecoder().decode(files[what]));
  const digest = async (what) => hex(await sha256(files[what]));
  const candidate = read("candidate"), report = read("report");
  const found = {
    request_sha256: await digest("request"), candidate_sha256: candidate.weights.sha256,
    report_sha256: await digest("report"), policy_sha256: await digest("policy"),
    sample_sets: [candidate.negative_id, candidate.positive_id, candidate.forget_id, candidate.retain_id,
      report.holdout_id].filter((one) => one !== null && one !== undefined),
  };
  const problems = [];
  if (report.request_sha256 !== found.request_sha256) problems.push("the report is about another request");
  if (report.candidate_sha256 !== found.candidate_sha256) problems.push("the report is about another candidate");
  return { found, problems };
}

// One line for each digest of a subject.
function rows(found, shown) {
  return Object.entries(found).flatMap(([name, value]) => [].concat(value).map((one, number) => element("div", [
    element("dt", name === "sample_sets" ? `sample set ${number + 1}` : name.replace("_sha256", "")),
    element("dd", shown(one))])));
}

async function prepare() {
  const { run, requester, you, validDays } = form.dataset, checks = by("checks");
  if (!canSign()) return say(checks, "A browser signs only on https or on this machine’s own address.", "bad");
  const [page, key, keyring] = await Promise.all([
    ask(`/api/v1/runs/${run}`).then((answer) => answer.json()), mine(),
    ask("/api/v1/ledger/keyring").then((answer) => answer.json())]);
  const { found, problems } = await subject(run);
  for (const [name, value] of Object.entries(found)) {
    if (canonical(page.subject[name]) !== canonical(value)) problems.push(`the page names another ${name.replace("_sha256", "")}`);
  }
  const list = element("dl", rows(found, short), { class: "digests" });
  checks.replaceChildren(element("p", problems.length ? `Do not sign: ${problems.join("; ")}.` :
    "This browser has fetched request, report, policy and the candidate’s record, hashed them again, and found them as the page says.",
    { class: problems.length ? "note bad" : "note good" }), list);
  checks.dataset.agrees = String(!problems.length);
  if (problems.length) return;
  if (!key) {
    return checks.append(element("p", ["There is no key in this browser. ", element("a", "Make or bring one", { href: "/key" }), "."], { class: "note warn" }));
  }
  const entry = keyring.entries.find((one) => one.key_id === key.id);
  const why = (decision) => {
    if (!entry) return "the keyring does not know this browser’s key: an admin has to enter it";
    if (entry.valid_until !== undefined && entry.valid_until !== null) return `this browser’s key was ${entry.ended}`;
    if (you && you !== entry.person) return `this browser’s key is ${entry.person}’s, and you are ${you}`;
    if (!entry.roles.includes("reviewer")) return `${entry.person} is ${entry.roles.join(" and ")}, not reviewer`;
    const may = decision === "approve" ? page.deciding.may_approve : page.deciding.may_reject;
    if (may.includes(entry.person)) return "";
    return page.deciding.approved_by.includes(entry.person) ? `${entry.person} has approved already` : `${requester} made this request: somebody else must approve`;
  };
  checks.append(element("p", ["You sign as ", element("b", entry?.person ?? "nobody known here"), " with key ", short(key.id)]));
  for (const button of form.querySelectorAll("button[name=decision]")) {
    const reason = why(button.value);
    button.disabled = Boolean(reason);
    if (reason) checks.append(element("p", `You cannot ${button.value}: ${reason}.`, { class: "note warn" }));
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    confirm(event.submitter.value, { run, validDays: Number(validDays), key, entry, found });
  });
}

function confirm(decision, given) {
  const reason = by("reason").value, outcome = by("outcome"), dialog = by("confirm");
  outcome.replaceChildren();
  if (!reason.trim()) { say(outcome, "A decision needs a reason.", "bad"); return by("reason").focus(); }
  const open = [...form.querySelectorAll("input[name=waive]")];
  const waives = decision === "approve" ? open.filter((box) => box.checked).map((box) => box.value) : [];
  if (decision === "approve" && waives.length < open.length) return say(outcome, "Who approves has to waive every inconclusive rule.", "bad");
  const title = `${decision === "approve" ? "Approve" : "Reject"} ${given.run} as ${given.entry.person}`;
  by("confirm-title").textContent = title;
  by("confirm-digests").replaceChildren(...rows(given.found, (one) => element("code", one)));
  by("do-sign").textContent = `Sign: ${decision}`;
  by("do-sign").className = decision;
  by("do-sign").onclick = async () => {
    dialog.close();
    try {
      await hand_in(decision, reason, waives, given);
      location.reload();
    } catch (error) {
      say(outcome, error.message, "bad");
    }
  };
  by("do-not").onclick = () => dialog.close();
  dialog.showModal();
}

const written = (moment) => `${moment.toISOString().slice(0, 19)}+00:00`;

async function hand_in(decision, reason, waives, { run, validDays, key, entry, found }) {
  const now = new Date();
  const approval = {
    schema: "expunge/approval/v1", run, person: entry.person, decision, waives, ...found,
    reason_sha256: hex(await sha256(utf8(reason))), decided_at: written(now),
    not_after: written(new Date(Math.floor(now.getTime() / 1000) * 1000 + validDays * 86_400_000)),
    nonce: hex(crypto.getRandomValues(new Uint8Array(16))),
  };
  const envelope = await seal(utf8(canonical(approval)), DECISION, key);
  await ask(`/api/v1/runs/${run}/decisions`, {
    method: "POST", body: JSON.stringify({ envelope, reason }),
    headers: { "Content-Type": "application/json", "X-CSRF-Token": document.querySelector("meta[name=csrf]").content },
  });
}
