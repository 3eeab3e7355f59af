// The scorecard editor: its fields to the server, and the preview, which comes back as finished and escaped HTML.
const form = document.querySelector("form[data-card]");
const criteria = document.getElementById("criteria");
const preview = document.getElementById("preview");
const scoring = document.getElementById("scoring");
const fault = document.getElementById("fault");
const saved = document.getElementById("saved");
let timer = 0;
let busy = false;
let waits = false;
let changed = false;

function given() {
  const values = {};
  for (const field of form.querySelectorAll("[name]")) {
    const of = field.closest("fieldset");
    values[of ? place(of) + "." + field.name : field.name] = field.value;
  }
  return values;
}

function place(criterion) {
  return [...criteria.children].indexOf(criterion) + 1;
}

function number() {
  for (const criterion of criteria.children) {
    criterion.querySelector("legend").textContent = "Criterion " + place(criterion);
  }
}

function blame(told) {
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
  }
  fault.hidden = !told.wrong;
  fault.textContent = told.wrong || "";
  const [first, second] = (told.field || "").split(".");
  const within = second ? criteria.children[first - 1] : form;
  const field = first && within && within.querySelector('[name="' + (second || first) + '"]');
  if (field) {
    field.setAttribute("aria-invalid", "true");
    const folded = field.closest("details");
    if (folded) {
      folded.open = true;
    }
  }
}

async function send(act, values) {
  try {
    const answer = await fetch("/acts/card/" + act, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values),
    });
    const told = await answer.json();
    return answer.ok ? told : { wrong: told.error || "the console refused this" };
  } catch (error) {
    return { wrong: "the console does not answer" };
  }
}

// One preview is asked for at a time. What changes meanwhile is asked for after it.
async function score(again) {
  if (busy) {
    waits = true;
    return;
  }
  busy = true;
  waits = false;
  scoring.textContent = again ? "reading the plans" : "scoring";
  preview.setAttribute("aria-busy", "true");
  const told = await send("preview", again ? { ...given(), again: "yes" } : given());
  blame(told);
  if (told.html !== undefined) {
    preview.innerHTML = told.html;
  }
  preview.removeAttribute("aria-busy");
  busy = false;
  const before = preview.firstElementChild ? "not scored: these numbers are of the card before" : "not scored";
  scoring.textContent = told.wrong ? before : "scored";
  if (told.waiting) {
    scoring.textContent = told.waiting + " plans are still to be read";
  }
  if (waits || told.waiting) {
    score(false);
  }
}

function edited() {
  changed = true;
  saved.textContent = "";
  clearTimeout(timer);
  timer = setTimeout(() => score(false), 600);
}

async function keep() {
  saved.className = "";
  saved.textContent = "saving";
  const told = await send("save", given());
  blame(told);
  saved.className = told.wrong ? "wrong" : "";
  saved.textContent = told.wrong || told.words + "\n";
  if (told.link) {
    changed = false;
    const link = document.createElement("a");
    link.href = told.link;
    link.textContent = "open it";
    saved.append(link);
  }
}

form.addEventListener("input", edited);
form.addEventListener("submit", (event) => { event.preventDefault(); score(false); });
criteria.addEventListener("click", (event) => {
  if (event.target.closest("[data-remove]")) {
    event.target.closest("fieldset").remove();
    number();
    edited();
    document.getElementById("add").focus();
  }
});
document.getElementById("add").addEventListener("click", () => {
  criteria.append(document.getElementById("blank").content.cloneNode(true));
  number();
  criteria.lastElementChild.querySelector("input").focus();
  edited();
});
document.getElementById("save").addEventListener("click", keep);
document.getElementById("again").addEventListener("click", () => score(true));
addEventListener("beforeunload", (event) => {
  if (changed) {
    event.preventDefault();
  }
});
number();
score(false);
