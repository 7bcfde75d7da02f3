"use strict";

const NEEDS = {
  t2i: ["text"], s2i: ["audio"], tts: ["text"], asr: ["audio"], caption: ["image"],
  vqa: ["text", "image"], svqa: ["audio", "image"], sqa: ["audio"], chat: ["text"],
};
const MAY = { t2i: ["image", "inpaint"], s2i: ["image", "inpaint"], caption: ["text"] };
const SIDE = 16;
const at = (id) => document.getElementById(id);

let source = null;   // events of the answer under way
let current = null;  // its id
let drawing = 0;     // number of the newest picture: older ones that load later are dropped

function showInputs() {
  const task = at("task").value;
  const shown = [...NEEDS[task], ...(MAY[task] || [])];
  for (const label of document.querySelectorAll("[data-for]")) {
    label.hidden = !shown.includes(label.dataset.for);
  }
}

function encoded(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

async function request() {
  const task = at("task").value;
  const body = { task, seed: Number(at("seed").value) || 0 };
  if (at("steps").value) body.steps = Number(at("steps").value);
  for (const name of [...NEEDS[task], ...(MAY[task] || [])]) {
    if (name === "text") {
      if (at("text").value.trim()) body.text = at("text").value.trim();
    } else if (at(name).files.length) {
      body[name] = await encoded(at(name).files[0]);
    }
  }
  // A picture without a mask would not be used.
  if (MAY[task]?.includes("inpaint") && !body.inpaint) delete body.image;
  return body;
}

function draw(state) {
  const turn = ++drawing;
  const picture = new Image();
  picture.onload = () => {
    if (turn !== drawing) return;
    const canvas = at("picture");
    const context = canvas.getContext("2d");
    canvas.hidden = false;
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    veil(context, state.hidden || "", canvas.width / SIDE);
    canvas.dataset.frames = Number(canvas.dataset.frames || 0) + 1;
  };
  picture.src = state.picture;
}

function veil(context, hidden, cell) {
  for (let i = 0; i < hidden.length; i++) {
    if (hidden[i] === "0") continue;
    const row = Math.floor(i / SIDE), column = i % SIDE;
    context.fillStyle = (row + column) % 2 ? "#cdcdcd" : "#bebebe";
    context.fillRect(column * cell, row * cell, cell, cell);
  }
}

function show(state) {
  at("status").textContent = {
    waiting: "Waiting for its turn …",
    running: `Step ${state.step} of at most ${state.steps}: ${state.known} of ${state.total} tokens`,
    done: "Done.", failed: "Failed.", cancelled: "Stopped.",
  }[state.stage];
  at("bar").hidden = state.stage !== "running" && state.stage !== "waiting";
  at("bar").value = state.total ? state.known / state.total : 0;
  if (state.picture) draw(state);
  at("words").hidden = !state.text;
  at("words").textContent = state.text || "";
  if (state.sound) { at("sound").src = state.sound; at("sound").hidden = false; }
  if (state.facts) {
    const { steps, batch_seconds: seconds } = state.facts;
    at("status").textContent = `Done: ${steps} steps in ${seconds} s.`;
  }
  if (state.error) complain(state.error);
  if (["done", "failed", "cancelled"].includes(state.stage)) finished();
}

function complain(text) {
  at("error").textContent = text;
  at("error").hidden = false;
}

function finished() {
  source?.close();
  source = current = null;
  at("go").disabled = false;
  at("stop").hidden = true;
  at("bar").hidden = true;
}

function clear() {
  drawing++;
  for (const id of ["picture", "words", "sound", "error"]) at(id).hidden = true;
  at("sound").removeAttribute("src");
  delete at("picture").dataset.frames;
}

async function ask(event) {
  event.preventDefault();
  clear();
  at("go").disabled = true;
  at("status").textContent = "Sending …";
  try {
    const answer = await fetch("/api/answers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(await request()),
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    current = told.id;
    at("stop").hidden = false;
    source = new EventSource(told.events);
    source.onmessage = (message) => show(JSON.parse(message.data));
    source.onerror = () => {
      if (source?.readyState !== EventSource.CLOSED) return;  // else it connects again by itself
      complain("The server is gone.");
      finished();
    };
  } catch (error) {
    at("status").textContent = "";
    complain(error.message);
    finished();
  }
}

async function describe() {
  const told = await (await fetch("/api/about")).json();
  const millions = (told.parameters / 1e6).toLocaleString("en", { maximumFractionDigits: 1 });
  at("model").textContent = `${millions} million parameters, at most ${told.longest} tokens` +
    (told.demo ? ", demo tokenizers: expect sketches, not art" : "");
}

at("task").addEventListener("change", showInputs);
at("form").addEventListener("submit", ask);
at("stop").addEventListener("click", () => {
  if (current) fetch(`/api/answers/${current}`, { method: "DELETE" });
});
showInputs();
describe().catch(() => complain("The server does not answer."));
