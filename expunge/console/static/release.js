// Asking that an approved run be released: a worker does it.
import { change } from "./change.js";
import { by, element } from "./elements.js";

const button = by("ask-release"), dialog = by("confirm-release");
button?.addEventListener("click", () => dialog.showModal());
by("do-not-release")?.addEventListener("click", () => dialog.close());
by("do-release")?.addEventListener("click", async () => {
  dialog.close();
  button.disabled = true;
  try {
    await change(`/api/v1/runs/${button.dataset.run}/release`, "POST");
    location.reload();
  } catch (error) {
    button.disabled = false;
    by("release-outcome").replaceChildren(element("p", error.message, { class: "note bad" }));
  }
});
