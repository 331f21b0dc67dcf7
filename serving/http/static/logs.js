// Values of a prediction open in place; the first page follows what arrives, while nothing is open.
"use strict";

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.more");
  if (!button) return;
  const values = button.closest("tbody").querySelector("tr.values");
  values.hidden = !values.hidden;
  button.setAttribute("aria-expanded", String(!values.hidden));
  button.textContent = values.hidden ? "▸" : "▾";
});

document.addEventListener("submit", (event) => {
  // A short address: without what was left empty.
  for (const field of event.target.elements) if (!field.value) field.disabled = true;
});

document.addEventListener("change", (event) => {
  if (event.target.name === "window") event.target.form.requestSubmit();
});

const follow = document.getElementById("follow");
const KEY = "logs-follow";

async function refresh() {
  const results = document.getElementById("results");
  const open = results.querySelector("tr.values:not([hidden])");
  if (!follow.checked || document.hidden || open) return;
  const answer = await fetch(window.location.href).catch(() => null);
  if (!answer || !answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  results.replaceWith(page.getElementById("results"));
}

if (follow) {
  follow.closest("label").hidden = false;
  follow.checked = sessionStorage.getItem(KEY) === "yes";
  follow.addEventListener("change", () => sessionStorage.setItem(KEY, follow.checked ? "yes" : "no"));
  setInterval(refresh, 5000);
}
