// A wall of samples or images: seen on canvases, marked by mouse, finger or keyboard, kept on the server, filed.
import { change } from "./change.js";
import { ask } from "./evidence.js";
import { by, element } from "./elements.js";

const PER_PAGE = 1000, PER_CANVAS = 250, SAVE_AFTER = 3000, UNWANTED = 0.5, WANTED = 0.05, UNDO = 50;
const place = by("state"), wall = place.dataset.wall, ofSamples = place.dataset.of === "samples";
const path = `/api/v1/walls/${wall}`;
let about, marks = [], chances, order = [], first = 0, at = 0, anchor = 0, proposed, sheets = [], cell, columns = 1;
let saved = "", saving = Promise.resolve(), saveTimer, past = [], canvases = [];

// What is going to be seen first is asked for at once, and not after what lies on it.
const early = place.dataset.state === "ready" ? Array.from({ length: Number(place.dataset.sheets) }, (_, number) => pictures(number)) : [];

follow().catch((error) => { place.replaceChildren(element("p", error.message, { class: "note bad" })); });

// Waits until a worker has drawn it.
async function follow() {
  for (;;) {
    const found = await (await ask(path)).json();
    if (found.state === "ready") return begin(found);
    const said = found.state === "failed" ? element("p", found.error, { class: "note bad" }) :
      element("p", found.state === "is drawn" ? "A worker is drawing it." :
        ["A worker has to draw it: ", element("code", "expunge queue work"), `. This page goes on by itself.${found.error ? ` The last try: ${found.error}` : ""}`], { class: "note" });
    if (place.textContent !== said.textContent) place.replaceChildren(said);
    if (found.state === "failed") return;
    await new Promise((done) => setTimeout(done, 2000));
  }
}

function begin(found) {
  about = found.about;
  marks = [...found.marks];
  saved = found.marks;
  chances = about.probabilities ? Uint8Array.from(atob(about.probabilities), (one) => one.charCodeAt(0)) : null;
  sheets = Array.from({ length: about.sheets });
  place.replaceChildren();
  by("work").hidden = false;
  showClasses();
  if (about.count) {
    listen();
    new ResizeObserver(() => layOut()).observe(by("wall"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
    layOut();
  }
  by("file").addEventListener("submit", (event) => { event.preventDefault(); say(by("outcome"), file()); });
  by("delete").addEventListener("click", () => { if (confirm("What was drawn and marked will be gone. Go on?")) say(by("outcome"), remove()); });
  by("file").addEventListener("change", showChances);
  addEventListener("beforeunload", (event) => { if (marks.join("") !== saved) event.preventDefault(); });
  changed();
}

const say = (where, doing) => doing.catch((error) => where.replaceChildren(element("p", error.message, { class: "note bad" })));
const named = (number) => about.names[number] ?? String(number);
const many = (count, one, more = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;

// ------------------------------------------------------------------------------------------------ classes

function showClasses() {
  const known = Object.entries(about.counts).sort((one, other) => Number(one[0]) - Number(other[0]));
  by("classes").replaceChildren(...known.map(([number, count]) => {
    const box = element("input", [], { type: "checkbox", value: number });
    box.addEventListener("change", () => changed());
    return element("label", [box, ` ${named(Number(number))} `, element("span", count.toLocaleString("en"))]);
  }));
}

const chosen = () => [...by("classes").querySelectorAll("input:checked")].map((box) => Number(box.value));

// By the oracle: how likely each is of a class that is to be forgotten.
function likelihoods() {
  const wide = about.shown.length, found = new Float32Array(about.count);
  const places = chosen().map((number) => about.shown.indexOf(number)).filter((one) => one >= 0);
  for (let one = 0; one < about.count; one++) {
    for (const column of places) found[one] += chances[one * wide + column] / 255;
  }
  return found;
}

// What of the marked is of which class: said, so that the classes can be chosen by it.
function suggest() {
  const of = new Map();
  marks.forEach((mark, one) => { if (mark === "u") of.set(about.likeliest[one], (of.get(about.likeliest[one]) ?? 0) + 1); });
  const most = [...of].sort((one, other) => other[1] - one[1]), total = most.reduce((sum, one) => sum + one[1], 0);
  const missing = most.filter(([number, count]) => count * 5 >= total && !chosen().includes(number)).map(([number]) => number);
  const text = !total ? (ofSamples ? "Mark some samples: the oracle’s classes that they are of are what is to be forgotten. Or choose classes, and it proposes samples." : "All images of the classes you choose, or only those that you mark below.")
    : `${ofSamples ? "The oracle takes what you marked for" : "What you marked is of"} ${most.slice(0, 4).map(([number, count]) => `${named(number)} (${count})`).join(", ")}.`;
  const use = element("button", `Choose ${missing.map(named).join(" and ")}`, { type: "button" });
  use.addEventListener("click", () => {
    for (const box of by("classes").querySelectorAll("input")) if (missing.includes(Number(box.value))) box.checked = true;
    changed();
  });
  by("suggestion").replaceChildren(text, ...(missing.length ? [" ", use] : []));
}

// ------------------------------------------------------------------------------------------------ marks

function set(some, mark) {
  const different = some.filter((one) => marks[one] !== mark);
  if (!different.length) return;
  past = [...past.slice(1 - UNDO), marks.join("")];
  for (const one of different) marks[one] = mark;
  changed();
}

function undo() {
  const before = past.pop();
  if (before !== undefined) { marks = [...before]; changed(); }
}

// After every change of marks or classes.
function changed() {
  const likely = ofSamples && chosen().length ? likelihoods() : null;
  proposed = likely ? Array.from(likely, (chance, one) => marks[one] === "." && chance >= UNWANTED) : [];
  suggest();
  showCounts(likely);
  draw();
  showChances();
  clearTimeout(saveTimer);
  if (about.count && marks.join("") !== saved) {
    by("saved").textContent = "not saved yet";
    saveTimer = setTimeout(() => { saving = save().catch((error) => { by("saved").textContent = `not saved: ${error.message}`; saveTimer = setTimeout(changed, 10_000); }); }, SAVE_AFTER);
  }
}

async function save() {
  const now = marks.join("");
  await change(`${path}/marks`, "PUT", { marks: now });
  saved = now;
  by("saved").textContent = marks.join("") === saved ? "saved" : "not saved yet";
}

function showCounts(likely) {
  const of = (mark) => marks.filter((one) => one === mark).length, unwanted = of("u");
  const parts = [many(unwanted, "unwanted", "unwanted")];
  if (ofSamples) {
    parts.push(`${many(of("w"), "to stay", "to stay")}`, `${many(of("."), "not said", "not said")}`);
    if (likely) {
      const unsure = likely.filter((chance, one) => marks[one] === "." && chance < UNWANTED && chance >= WANTED).length;
      parts.push(`${many(proposed.filter(Boolean).length, "proposed", "proposed")}`, `${many(unsure, "unsure", "unsure")}`);
    }
  }
  by("counts").textContent = parts.join(" · ");
  if (by("accept")) by("accept").disabled = !proposed.some(Boolean);
  by("undo").disabled = !past.length;
}

// How sure a verdict can get with that many, by the gate's arithmetic on the server.
let asked = 0, chancesTimer;
function showChances() {
  if (!ofSamples) return;
  clearTimeout(chancesTimer);
  chancesTimer = setTimeout(async () => {
    const mine = ++asked, unwanted = marks.filter((mark) => mark === "u").length + (by("rest").checked ? proposed.filter(Boolean).length : 0);
    const query = new URLSearchParams({ unwanted, count: about.count, policy: by("policy").value, evaluate: by("evaluate").value, search: by("search").value });
    const found = await ask(`/api/v1/chances?${query}`).then((answer) => answer.json()).catch((error) => ({ problem: error.message }));
    if (mine !== asked) return;
    by("chances").replaceChildren(element("h3", `How sure a verdict can get, with ${many(unwanted, "unwanted", "unwanted")} of ${many(about.count, "sample")}`),
      found.problem ? element("p", found.problem, { class: "note warn" }) :
        element("ul", found.rules.map((rule) => element("li", `${rule.metric.replaceAll("_", " ")} ${rule.limit}: ${rule.note}`, rule.can_pass === false ? { class: "cannot" } : {}))));
  }, 600);
}

// ------------------------------------------------------------------------------------------------ order and pages

function sorted() {
  const all = Array.from({ length: about.count }, (_, one) => one), how = by("order").value;
  if (how === "class") return all.sort((one, other) => about.likeliest[one] - about.likeliest[other] || one - other);
  if (how === "marked") return all.sort((one, other) => ".wu".indexOf(marks[other]) - ".wu".indexOf(marks[one]) || one - other);
  if (how === "drawn") return all;
  const likely = likelihoods();
  const rank = how === "likely" ? (one) => -likely[one] : (one) => Math.abs(likely[one] - UNWANTED);
  return all.sort((one, other) => (marks[one] !== ".") - (marks[other] !== ".") || rank(one) - rank(other) || one - other);
}

const onPage = () => order.slice(first, first + PER_PAGE);

function turn(to) {
  first = Math.max(0, Math.min(to, Math.floor((about.count - 1) / PER_PAGE) * PER_PAGE));
  at = anchor = 0;
  layOut();
}

function layOut() {
  const wide = by("wall").clientWidth;
  if (!wide || !about.count) return;
  if (order.length !== about.count) order = sorted();
  cell = Math.max(44, Math.min(64, Math.floor(wide / 5)));  // a finger's width at least
  columns = Math.max(1, Math.floor(wide / cell));
  cell = wide / columns;
  const some = onPage(), needed = Math.ceil(some.length / PER_CANVAS);
  canvases.splice(needed).forEach((one) => one.remove());
  while (canvases.length < needed) {
    const made = element("canvas", [], { "aria-hidden": "true" });
    canvases.push(made);
    by("wall").append(made);
  }
  canvases.forEach((canvas, number) => {
    const count = Math.min(PER_CANVAS, some.length - number * PER_CANVAS), scale = Math.min(devicePixelRatio || 1, 2);
    const height = Math.ceil(count / columns) * cell;
    canvas.width = Math.round(wide * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = `${height}px`;
  });
  by("before").disabled = first === 0;
  by("after").disabled = first + PER_PAGE >= about.count;
  by("page").textContent = `${(first + 1).toLocaleString("en")} to ${(first + some.length).toLocaleString("en")} of ${about.count.toLocaleString("en")}`;
  draw();
}

// ------------------------------------------------------------------------------------------------ drawing

const PER_SHEET = 250;

function pictures(number) {
  const got = ask(`/api/v1/walls/${place.dataset.wall}/sheets/${number}`).then((answer) => answer.blob()).then((blob) => createImageBitmap(blob));
  got.catch(() => {});  // whoever waits for it says so
  return got;
}

function sheet(number) {
  sheets[number] ??= (early[number] ?? pictures(number)).then((bitmap) => {
    sheets[number] = bitmap;
    draw();
  }).catch((error) => { by("saved").textContent = `pictures: ${error.message}`; });
}

const palette = {};
let planned = false, scrolled = false;

// What is out of sight is painted when it comes near.
function paintIfNear(canvas, number) {
  const box = canvas.getBoundingClientRect();
  if (canvas.dataset.stale !== "true" || box.top > 2 * innerHeight || box.bottom < -innerHeight) return;
  paint(canvas, number);
  delete canvas.dataset.stale;
}

addEventListener("scroll", () => {
  if (scrolled) return;
  scrolled = true;
  requestAnimationFrame(() => { scrolled = false; canvases.forEach(paintIfNear); });
}, { passive: true });

function draw() {
  if (planned || !columns || !about.count) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    const colours = getComputedStyle(document.documentElement);
    for (const name of ["track", "good", "bad", "bg", "ink", "accent"]) palette[name] = colours.getPropertyValue(`--${name}`).trim();
    canvases.forEach((canvas, number) => { canvas.dataset.stale = "true"; paintIfNear(canvas, number); });
    for (const number of new Set(onPage().map((one) => Math.floor(one / PER_SHEET)))) if (!sheets[number]) sheet(number);
    tell();
    if (onPage().every((one) => sheets[Math.floor(one / PER_SHEET)] instanceof ImageBitmap)) performance.mark("wall drawn");
  });
}

function paint(canvas, number) {
  const brush = canvas.getContext("2d"), scale = canvas.width / (cell * columns), colour = (name) => palette[name];
  const some = onPage().slice(number * PER_CANVAS, (number + 1) * PER_CANVAS), [height, width] = about.thumbnail;
  const [low, high] = [Math.min(at, anchor), Math.max(at, anchor)], focused = document.activeElement === by("wall");
  brush.setTransform(scale, 0, 0, scale, 0, 0);
  brush.clearRect(0, 0, cell * columns, canvas.height);
  brush.imageSmoothingEnabled = Math.max(height, width) > cell;
  some.forEach((one, place) => {
    const x = (place % columns) * cell, y = Math.floor(place / columns) * cell, inset = 4, side = cell - 2 * inset;
    const bitmap = sheets[Math.floor(one / PER_SHEET)], on = one % PER_SHEET;
    const scaled = side / Math.max(height, width), w = width * scaled, h = height * scaled;
    if (bitmap instanceof ImageBitmap) {
      brush.drawImage(bitmap, (on % about.columns) * width, Math.floor(on / about.columns) * height, width, height, x + (cell - w) / 2, y + (cell - h) / 2, w, h);
    } else {
      brush.fillStyle = colour("track");
      brush.fillRect(x + inset, y + inset, side, side);
    }
    const how = marks[one], here = number * PER_CANVAS + place;
    if (how !== "." || proposed[one]) {  // by colour, by line and by sign
      brush.lineWidth = 4;
      brush.strokeStyle = colour(how === "w" ? "good" : "bad");
      brush.setLineDash(how === "." ? [5, 4] : []);
      brush.strokeRect(x + 3, y + 3, cell - 6, cell - 6);
      brush.setLineDash([]);
      if (how !== ".") {
        brush.fillStyle = brush.strokeStyle;
        brush.fillRect(x + cell - 21, y + 3, 18, 18);
        brush.strokeStyle = colour("bg");
        brush.lineWidth = 2.5;
        brush.beginPath();
        if (how === "u") { brush.moveTo(x + cell - 16, y + 8); brush.lineTo(x + cell - 8, y + 16); brush.moveTo(x + cell - 8, y + 8); brush.lineTo(x + cell - 16, y + 16); }
        else { brush.moveTo(x + cell - 17, y + 12); brush.lineTo(x + cell - 13, y + 16); brush.lineTo(x + cell - 7, y + 8); }
        brush.stroke();
      }
    }
    if (focused && here >= low && here <= high) {
      brush.lineWidth = here === at ? 3 : 1.5;
      brush.strokeStyle = colour(here === at ? "ink" : "accent");
      brush.strokeRect(x + 1, y + 1, cell - 2, cell - 2);
    }
  });
}

// What a screen reader says of where one is.
function tell() {
  const one = order[first + at], current = by("current");
  if (one === undefined) return;
  const how = { u: "unwanted", w: "to stay", ".": proposed[one] ? "proposed" : "not said" }[marks[one]];
  const chance = chances ? `, ${Math.round(100 * Math.max(...chances.subarray(one * about.shown.length, (one + 1) * about.shown.length)) / 255)} %` : "";
  current.textContent = `${ofSamples ? "Sample" : "Image"} ${one}${about.files[one] ? `, ${about.files[one]}` : ""}: ${how}; ${named(about.likeliest[one])}${chance}`;
  current.setAttribute("aria-selected", String(marks[one] !== "."));
  current.setAttribute("aria-posinset", String(first + at + 1));
  current.setAttribute("aria-setsize", String(about.count));
}

// ------------------------------------------------------------------------------------------------ hands

const mode = () => document.querySelector("input[name=mode]:checked").value;
const between = (from, to) => onPage().slice(Math.min(from, to), Math.max(from, to) + 1);

function under(event) {
  const number = canvases.findIndex((one) => { const box = one.getBoundingClientRect(); return event.clientY >= box.top && event.clientY < box.bottom; });
  if (number < 0) return -1;
  const box = canvases[number].getBoundingClientRect(), column = Math.floor((event.clientX - box.left) / cell);
  if (column < 0 || column >= columns) return -1;
  const found = number * PER_CANVAS + Math.floor((event.clientY - box.top) / cell) * columns + column;
  return found < Math.min((number + 1) * PER_CANVAS, onPage().length) ? found : -1;
}

function listen() {
  const box = by("wall");
  let painting = null, before = null;
  box.addEventListener("pointerdown", (event) => {
    const here = under(event);
    if (here < 0 || event.button) return;
    box.focus({ preventScroll: true });
    if (event.shiftKey) { at = here; return set(between(anchor, here), mode()); }
    at = anchor = here;
    const one = onPage()[here];
    painting = marks[one] === mode() ? "." : mode();  // again takes back
    before = here;
    if (event.pointerType === "mouse") box.setPointerCapture(event.pointerId);
    if (event.pointerType !== "touch") set([one], painting); // a finger may be about to scroll
  });
  box.addEventListener("pointermove", (event) => {
    if (painting === null) return;
    const here = under(event);
    if (here < 0 || here === before) return;
    set(passed(before, here), painting);
    at = anchor = before = here;
  });
  box.addEventListener("pointerup", (event) => {
    if (painting !== null && event.pointerType === "touch" && before === at) set([onPage()[at]], painting);
    painting = null;
  });
  box.addEventListener("pointercancel", () => { painting = null; });
  box.addEventListener("focus", draw);
  box.addEventListener("blur", draw);
  box.addEventListener("keydown", pressed);
  by("order").addEventListener("change", () => { order = sorted(); turn(0); });
  by("before").addEventListener("click", () => turn(first - PER_PAGE));
  by("after").addEventListener("click", () => turn(first + PER_PAGE));
  by("undo").addEventListener("click", undo);
  by("accept")?.addEventListener("click", () => set(order.filter((one) => proposed[one]), "u"));
  by("rest")?.addEventListener("change", showChances);
  by("by-files")?.addEventListener("click", byFiles);
}

// All that a straight line from one to the other goes over: a fast hand skips some.
function passed(from, to) {
  const [x, y] = [from % columns, Math.floor(from / columns)], [right, down] = [to % columns - x, Math.floor(to / columns) - y];
  const steps = Math.max(Math.abs(right), Math.abs(down)), some = onPage();
  return Array.from({ length: steps + 1 }, (_, step) => some[Math.round(y + down * step / steps) * columns + Math.round(x + right * step / steps)]).filter((one) => one !== undefined);
}

function pressed(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: onPage().length - 1 - at, PageUp: -5 * columns, PageDown: 5 * columns }[event.key];
  const mark = { " ": mode(), u: "u", w: ofSamples ? "w" : undefined, x: ".", Delete: "." }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "z" && !event.altKey) { event.preventDefault(); undo(); }
    return;
  }
  if (step !== undefined) {
    at = Math.max(0, Math.min(onPage().length - 1, at + step));
    if (!event.shiftKey) anchor = at;
    const canvas = canvases[Math.floor(at / PER_CANVAS)], box = canvas.getBoundingClientRect();
    const top = box.top + Math.floor(at % PER_CANVAS / columns) * cell, under = document.querySelector(".tools").getBoundingClientRect().height;
    if (top < under) scrollBy(0, top - under - cell);
    else if (top + cell > innerHeight) scrollBy(0, top + 2 * cell - innerHeight);
    draw();
  } else if (event.key === "z") {
    undo();
  } else if (mark !== undefined) {
    const some = between(anchor, at);
    set(some, event.key === " " && some.every((one) => marks[one] === mark) ? "." : mark);
  } else return;
  event.preventDefault();
}

function byFiles() {
  const wanted = new Set(by("files").value.split("\n").map((line) => line.trim().replace(/^\.\//, "")).filter(Boolean));
  const some = about.files.flatMap((name, one) => wanted.delete(name) ? [one] : []);
  set(some, "u");
  by("outcome").replaceChildren(...(wanted.size ? [element("p", `No image here is called ${[...wanted].slice(0, 3).join(", ")}${wanted.size > 3 ? `, nor ${wanted.size - 3} more` : ""}.`, { class: "note warn" })] : []));
}

// ------------------------------------------------------------------------------------------------ filing

async function file() {
  const value = (name) => by(name)?.value.trim() ?? "", classes = chosen(), form = by("file");
  const marked = [...new Set(marks.flatMap((mark, one) => mark === "u" ? [about.likeliest[one]] : []))];
  const wanted = !ofSamples && marked.length ? marked.sort((one, other) => one - other) : classes;
  if (!wanted.length) throw new Error("Choose the classes that are to be forgotten.");
  clearTimeout(saveTimer);
  await saving;
  const filing = {
    wall, marks: marks.join(""), id: value("id"), model: value("model"), reason: value("reason"),
    classes: wanted.map((number) => about.names[number] ?? number), holdout: { uri: value("holdout") }, policy: value("policy"),
    method: { name: value("method"), preset: value("preset") },
    ...(value("requester") ? { requester: value("requester") } : {}), ...(value("due") ? { due: value("due") } : {}),
    ...(value("judge") ? { judge: { uri: value("judge") } } : {}),
    ...(ofSamples ? { rest: by("rest").checked ? "oracle" : "nobody", sampling: { evaluate: Number(value("evaluate")), search: Number(value("search")), lessons: Number(value("lessons")) } } : {}),
  };
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const made = await (await change("/api/v1/requests", "POST", filing)).json();
    saved = filing.marks;
    by("saved").textContent = "saved";
    by("outcome").replaceChildren(element("p", [
      `${made.request_id} ${made.filed_now ? "is filed" : `was filed before, and is ${made.stage}`}: `, element("code", made.request_sha256.slice(0, 12), { id: "filed" }),
      ". A worker carries it out. ", element("a", "How far it is", { href: "/file" })], { class: "note good" }));
  } finally {
    button.disabled = false;
  }
}

async function remove() {
  clearTimeout(saveTimer);
  saved = marks.join("");
  await change(path, "DELETE");
  location.assign("/file");
}
