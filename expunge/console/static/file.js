// Where a request begins: what is to be looked at, and of which model.
import { change } from "./change.js";
import { by, element } from "./elements.js";

const form = by("ask");
if (form) {
  form.addEventListener("change", shown);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send().catch((error) => by("outcome").replaceChildren(element("p", error.message, { class: "note bad" })));
  });
  shown();
}

function shown() {
  const of = form.elements.of.value;
  for (const one of form.querySelectorAll("[data-of]")) one.hidden = one.dataset.of !== of;
  by("oracle").required = of === "samples";
  by("training").required = of === "images";
}

async function send() {
  const of = form.elements.of.value, value = (name) => by(name).value.trim();
  const wish = { of, checkpoint: { uri: value("checkpoint"), ...(value("architecture") ? { architecture: value("architecture") } : {}) } };
  if (of === "samples") Object.assign(wish, { oracle: { uri: value("oracle") }, count: Number(value("count")), seed: Number(value("seed")) });
  else Object.assign(wish, { training: { uri: value("training") }, pictures: by("pictures").checked });
  const made = await (await change("/api/v1/walls", "POST", wish)).json();
  location.assign(`/file/${made.wall}`);
}
