// The form asks for a prediction; the requests beside it have its values; what the API refuses is told at its field.
"use strict";

// Never ask the form itself: a field named "dataset" would hide the form's own property.
const model = () => document.getElementById("model");
const fields = () => [...document.querySelectorAll("#form [data-kind]")];
const here = () => new URL("./", window.location.href);

function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  if (field.value === "") return null;
  switch (field.dataset.kind) {
    case "number":
    case "integer": return Number(field.value);
    case "boolean": return field.value === "true";
    case "datetime": return `${field.value}${field.value.length === 16 ? ":00" : ""}Z`;
    default: return field.value;
  }
}

// A value as a language writes it.
const python = (value) => {
  if (value === null) return "None";
  return typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
};
const LITERALS = {
  shell: (value) => JSON.stringify(value).replaceAll("'", "'\\''"),
  python,
  number: (value) => (value === null ? "np.nan" : python(value)),
  text: (value) => JSON.stringify(value === null ? "" : String(value)),
};

function showRequests() {
  const values = fields().map(valueOf);
  for (const one of document.querySelectorAll(".requests [data-feature]")) {
    one.textContent = LITERALS[one.dataset.form](values[one.dataset.feature]);
  }
  const address = here();
  const path = address.pathname.replace(/\/$/, "");
  const secure = address.protocol === "https:" ? ", ssl=True" : "";
  for (const one of document.querySelectorAll(".requests [data-url]")) {
    one.textContent = one.dataset.url === "base" ? `${address.origin}${path}` : `"${address.host}${path}"${secure}`;
  }
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function show(...content) {
  const result = document.getElementById("result");
  result.replaceChildren(result.querySelector("h2"), ...content);
  result.scrollIntoView({ block: "nearest" });
}

const short = (number) => number.toLocaleString("en", { maximumSignificantDigits: 5 });
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function shares(answer) {
  const list = element("ul", { className: "shares" });
  for (const [name, share] of Object.entries(answer.probabilities)) {
    const filled = element("span");
    filled.style.width = percent(share).replace(" ", "");
    const best = name === answer.label ? "best" : "";
    const bar = element("span", { className: "bar", ariaHidden: "true" }, filled);
    list.append(element("li", { className: best }, element("span", {}, name), element("span", {}, percent(share)), bar));
  }
  return list;
}

function showAnswer(answer) {
  const classified = "label" in answer;
  const value = classified ? answer.label : short(answer.prediction);
  const unit = classified ? `${percent(answer.confidence)} probable` : answer.unit;
  const id = model().dataset.ledger
    ? element("a", { href: `./logs?prediction_id=${answer.prediction_id}` }, answer.prediction_id)
    : answer.prediction_id;
  const told = `Answered by ${answer.model.version}. Prediction id: `;
  const json = element("details", {}, element("summary", {}, "The answer as JSON"));
  json.append(element("pre", { tabIndex: 0 }, element("code", {}, JSON.stringify(answer, null, 2))));
  show(
    element("p", { className: "value" }, value, element("small", {}, unit)),
    ...(classified ? [shares(answer)] : []),
    element("p", { className: "told" }, told, id),
    json,
  );
}

function complain(field, message) {
  const error = document.getElementById(`${field.id}-error`);
  error.textContent = message;
  error.hidden = !message;
  field.setAttribute("aria-invalid", String(Boolean(message)));
}

function showError(status, body) {
  const named = new Map(fields().map((field) => [field.name, field]));
  const key = document.getElementById("key");
  const elsewhere = [];
  let first = null;
  for (const reason of body.detail ?? []) {
    const field = named.get(reason.loc[0]);
    if (!field) {
      elsewhere.push(reason.msg);
      continue;
    }
    complain(field, reason.msg.replace(`${field.name}: `, ""));
    first ??= field;
  }
  if (key && (status === 401 || status === 403)) {
    complain(key, key.value ? body.error : "This service asks for a key.");
    first = key;
  }
  const sentence = elsewhere[0] ?? (first ? "The service refuses what the form says: see the fields." : body.error);
  show(element("p", { className: "alert", role: "alert" }, sentence));
  first?.focus();
}

let busy = false;

async function predict() {
  if (busy) return;
  busy = true;
  const asked = model();
  const key = document.getElementById("key");
  for (const field of [...fields(), ...(key ? [key] : [])]) complain(field, "");
  const headers = { "Content-Type": "application/json" };
  if (key?.value) headers.Authorization = `Bearer ${key.value.trim()}`;
  const row = Object.fromEntries(fields().map((field) => [field.name, valueOf(field)]));
  try {
    // A password that the browser was given for pages opens no predictions.
    const answer = await fetch(new URL(`predict/${asked.dataset.model}`, here()), {
      method: "POST", headers, body: JSON.stringify(row), credentials: "omit",
    });
    const body = await answer.json();
    if (asked !== model()) return;
    if (answer.ok) showAnswer(body);
    else showError(answer.status, body);
  } catch {
    showError(0, { error: "The service does not answer. Try again in a moment." });
  } finally {
    busy = false;
  }
}

// Another model without another page, which would forget the key.
async function choose(address) {
  const key = document.getElementById("key").value;
  const answer = await fetch(address).catch(() => null);
  if (!answer?.ok) {
    window.location.assign(address);
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("main").replaceWith(page.querySelector("main"));
  document.getElementById("key").value = key;
  document.querySelector(".models [aria-current]").focus();
  begin();
}

async function copy(button) {
  const code = [...document.querySelectorAll(".requests pre")].find((one) => one.getClientRects().length);
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    // Over plain HTTP browsers have no clipboard for pages.
    window.getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function begin() {
  document.getElementById("copy").hidden = false;
  showRequests();
}

document.addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
document.addEventListener("input", (event) => {
  if (!event.target.closest("#form")) return;
  complain(event.target, "");
  showRequests();
});
document.addEventListener("reset", () => {
  const key = document.getElementById("key");
  const kept = key?.value;
  setTimeout(() => {
    if (key) key.value = kept;
    for (const field of fields()) complain(field, "");
    showRequests();
  });
});
document.addEventListener("click", (event) => {
  const link = event.target.closest(".models a");
  if (event.target.id === "copy") copy(event.target);
  else if (link && document.getElementById("key")?.value && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    window.history.pushState(null, "", link.href);
    choose(link.href);
  }
});
window.addEventListener("popstate", () => {
  if (document.getElementById("key")) choose(window.location.href);
});
begin();
