// Before and after on the same latents: beside each other, one in the place of the other, and what differs.
import { ask } from "./evidence.js";
import { by, element } from "./elements.js";

const place = by("pairs");
const SAYS = { image: "image", shown: "what was shown of it", before: "before", after: "after" };
if (place) begin().catch((error) => place.replaceChildren(element("p", error.message, { class: "note bad" })));

async function begin() {
  const run = place.dataset.run;
  const { groups, not_shown } = await (await ask(`/api/v1/runs/${run}/pictures`)).json();
  place.replaceChildren(...not_shown.map((line) => element("p", `Not shown: ${line}`, { class: "small" })));
  for (const group of groups) place.append(await laidOut(run, group));
}

async function loaded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

async function laidOut(run, group) {
  const strips = {};
  for (const side of group.sides) strips[side] = await loaded(`/api/v1/runs/${run}/pictures/${group.name}/${side}`);
  const title = element("h3", [group.title, " ", element("small", `${group.tiles.length} ${group.of}s`)]);
  const list = element("ul", [], { class: "tiles", id: `tiles-${group.name}` });
  if (!strips.before) {
    show(list, group, strips, "side");
    return element("div", [title, element("p", "Only what the candidate made is shown: nothing can be compared.", { class: "small" }), list]);
  }
  const flip = element("button", "", { type: "button", "aria-controls": list.id });
  const ways = { side: "Side by side", flip: "Flip", difference: "Difference" };
  const buttons = Object.entries(ways).map(([way, words]) => element("button", words, { type: "button", "data-way": way, "aria-controls": list.id }));
  const choose = (way) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.way === way));
    flip.hidden = way !== "flip";
    list.dataset.side = "before";
    show(list, group, strips, way);
    named();
  };
  const named = () => { flip.textContent = `All show ${list.dataset.side}: flip them`; };
  flip.addEventListener("click", () => {
    list.dataset.side = other(list.dataset.side);
    for (const button of list.querySelectorAll("button")) button.turn(list.dataset.side);
    named();
  });
  for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.way));
  choose("side");
  const bar = element("div", [...buttons, flip], { class: "views", role: "group", "aria-label": `How to compare: ${group.title}` });
  return element("div", [title, bar, list]);
}

const other = (side) => (side === "before" ? "after" : "before");

function show(list, group, strips, way) {
  list.className = `tiles ${way}`;
  list.replaceChildren(...group.tiles.map((tile, at) => {
    const figure = { side: beside, flip: flipping, difference: differing }[way](group, strips, tile, at);
    const became = element("span", [tile.before, " → ", element("b", tile.after)]);
    return element("li", [...figure, element("small", [`${group.of} ${tile.number}: `, became, ...(figure.says ? [`, ${figure.says}`] : [])])]);
  }));
}

function canvas(group, label) {
  const made = element("canvas", [], { width: group.width, height: group.height, role: "img", "aria-label": label });
  made.context = made.getContext("2d", { willReadFrequently: true });
  made.draw = (strip, at) => made.context.drawImage(strip, at * group.width, 0, group.width, group.height, 0, 0, group.width, group.height);
  return made;
}

function words(group, side, tile) {
  if (side === "after" && tile.hidden) return `after, ${group.of} ${tile.number}: not shown`;
  const label = { before: tile.before, after: tile.after }[side] ?? tile.label;
  return `${SAYS[side]}, ${group.of} ${tile.number}: class ${label}`;
}

function beside(group, strips, tile, at) {
  return group.sides.map((side) => {
    const drawn = canvas(group, words(group, side, tile));
    drawn.draw(strips[side], at);
    drawn.title = SAYS[side];
    return drawn;
  });
}

// One picture that each press turns into the other, in the same place: nothing moves, and nothing turns by itself.
function flipping(group, strips, tile, at) {
  const drawn = canvas(group, ""), button = element("button", [drawn, element("i", "")], { type: "button", class: "tile" });
  drawn.removeAttribute("role");
  drawn.removeAttribute("aria-label");
  button.turn = (side) => {
    button.dataset.side = side;
    drawn.draw(strips[side], at);
    button.lastChild.textContent = side;
    button.setAttribute("aria-label", `${words(group, side, tile)}. Flip`);
  };
  button.addEventListener("click", () => button.turn(other(button.dataset.side)));
  button.turn("before");
  return [button];
}

function differing(group, strips, tile, at) {
  const drawn = canvas(group, "");
  drawn.draw(strips.before, at);
  drawn.context.globalCompositeOperation = "difference";
  drawn.draw(strips.after, at);
  const { data } = drawn.context.getImageData(0, 0, group.width, group.height);
  let sum = 0;
  for (let byte = 0; byte < data.length; byte += 4) sum += data[byte] + data[byte + 1] + data[byte + 2];
  const says = tile.hidden ? "not shown" : `by ${(sum / (data.length * 0.75) / 2.55).toFixed(1)} %`;
  drawn.setAttribute("aria-label", `what differs, ${group.of} ${tile.number}: ${says}`);
  if (tile.hidden) drawn.context.clearRect(0, 0, group.width, group.height);
  return Object.assign([drawn], { says });
}
