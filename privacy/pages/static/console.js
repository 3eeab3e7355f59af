// The page's changing part, sent by the server as finished and escaped HTML, and the forms.
"use strict";

const live = document.getElementById("live");
const line = document.getElementById("line");

function listen() {
  const source = new EventSource("/live?run=" + encodeURIComponent(live.dataset.run || ""));
  source.onopen = () => { line.textContent = "live"; };
  source.onerror = () => { line.textContent = "the console does not answer; trying again"; };
  source.onmessage = (message) => {
    const open = [...live.querySelectorAll("details")].map((part) => part.open);
    live.innerHTML = JSON.parse(message.data);
    live.querySelectorAll("details").forEach((part, number) => { part.open = Boolean(open[number]); });
  };
}

async function given(form) {
  const values = {};
  for (const [name, value] of new FormData(form)) {
    values[name] = value instanceof File ? await value.text() : value;
  }
  return values;
}

function save(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  link.download = name;
  link.textContent = "save " + name;
  return link;
}

function shown(kind, text) {
  const part = document.createElement(kind);
  part.textContent = text;
  return part;
}

function picture(svg) {
  const drawn = new DOMParser().parseFromString(svg, "text/html");
  return document.adoptNode(drawn.querySelector("svg"));
}

async function act(form) {
  const output = form.querySelector("output");
  const button = form.querySelector("button");
  button.disabled = true;
  output.className = "";
  output.textContent = "working";
  try {
    const answer = await fetch("/acts/" + form.dataset.act, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(await given(form)),
    });
    const told = await answer.json();
    output.className = answer.ok ? "" : "wrong";
    output.textContent = answer.ok ? told.words.join("\n") : told.error || "the console refused this";
    if (answer.ok && told.reload) {
      setTimeout(() => location.reload(), 1500);
    }
    if (told.link) {
      output.append("\n", shown("code", told.link), picture(told.qr));
    }
    if (told.file) {
      output.append("\n", save(told.file, told.content));
    }
  } catch (error) {
    output.className = "wrong";
    output.textContent = "the console does not answer";
  }
  button.disabled = false;
}

function scroll(slider) {
  const figure = slider.closest("figure");
  slider.addEventListener("input", () => {
    const image = figure.querySelector("img");
    image.src = slider.dataset.slice + slider.value + ".png";
    image.alt = slider.id + " slice " + (Number(slider.value) + 1) + ": dose and outlines over the anatomy";
    figure.querySelector("label span").textContent = Number(slider.value) + 1;
  });
}

for (const slider of document.querySelectorAll("input[data-slice]")) {
  scroll(slider);
}
if (live) {
  listen();
} else {
  line.textContent = "";
}
for (const form of document.querySelectorAll("form[data-act]")) {
  form.addEventListener("submit", (event) => { event.preventDefault(); act(form); });
}
