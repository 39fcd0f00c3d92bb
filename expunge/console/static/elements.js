// Elements from text alone: nothing that a server says becomes markup.
export function element(name, content = [], attributes = {}) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...[content].flat());
  return made;
}
export const by = (id) => document.getElementById(id);
export const short = (digest) => element("code", digest.slice(0, 12), { class: "digest", title: digest });
