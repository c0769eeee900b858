// The page: what is typed and dropped goes to the server, what comes back is shown; an overtaken answer never is.

import { debounced, get, Latest, post, Refused } from "./api.js";
import { explain } from "./heat.js";
import { Labels } from "./labels.js";
import { countWords, guessLanguage } from "./language.js";
import { PictureSlot } from "./picture.js";
import { Results } from "./results.js";

const SHOWN = 24;
const PAUSE = 180; // milliseconds without a key before a text is sent
const $ = (id) => document.getElementById(id);
const text = $("text");
const minus = $("minus");
const balance = $("balance");
const latest = new Latest();
let card = null;
let cut = false;

const problems = new Map();

/** Show what went wrong, by what it was for; "" takes it back. */
function problem(of, message) {
  problems.set(of, message);
  const shown = [...problems.values()].filter(Boolean);
  $("problem").textContent = [...new Set(shown)].join(" ");
  $("problem").hidden = !shown.length;
}

function describeText() {
  const typed = text.value.trim();
  const { name, code } = guessLanguage(typed);
  if (code) text.lang = code;
  else text.removeAttribute("lang");
  if (!typed) {
    $("about").textContent = "";
    return;
  }
  const count = countWords(typed, code);
  const parts = [name ? `Looks like ${name}` : "Language not told", `${count} ${count === 1 ? "word" : "words"}`];
  if (cut) parts.push("longer than the model reads: its end is left out");
  $("about").textContent = parts.join(" · ");
}

async function search() {
  const typed = text.value.trim();
  const picture = slot.url;
  const both = Boolean(typed && picture);
  $("balancing").hidden = !both;
  if (!card || (!typed && !picture)) {
    latest.cancel();
    cut = false;
    describeText();
    results.show([], "");
    $("status").textContent = "";
    $("pair").hidden = true;
    return;
  }
  if (card.pictures === null) return compare(typed, picture);
  const share = Number(balance.value);
  const asked = {
    k: SHOWN,
    ...(typed && { text: typed }),
    ...(picture && { image: picture }),
    ...(minus.value.trim() && { minus: minus.value.trim() }),
    ...(both && { weights: { text: 2 * (1 - share), image: 2 * share } }),
  };
  $("grid").classList.add("old");
  const start = performance.now();
  try {
    const answer = await latest.run((signal) => post("v1/search", asked, signal));
    if (!answer) return;
    cut = answer.usage.truncated > 0;
    results.show(answer.data, typed);
    const took = Math.round(performance.now() - start);
    $("status").textContent = `The best ${answer.data.length} of ${card.pictures.toLocaleString("en")} pictures, ${took} ms`;
    problem("search", "");
    describeText();
  } catch (error) {
    failed(error);
  }
}

/** Without an index: how well words and picture fit, and through which words. */
async function compare(typed, picture) {
  $("pair").hidden = !(typed && picture);
  if (!typed || !picture) return latest.cancel();
  try {
    const nodes = await latest.run((signal) => explain(typed, { image: picture }, signal));
    if (nodes) $("pair-why").replaceChildren(...nodes);
    problem("search", "");
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  problem("search", error instanceof Refused ? error.message : "The server cannot be reached.");
}

const soon = debounced(search, PAUSE);
const labels = new Labels((message) => problem("labels", message));
const slot = new PictureSlot((url) => {
  problem("picture", "");
  labels.of(url);
  soon(true);
}, (message) => problem("picture", message));
const results = new Results(
  (blob) => {
    slot.take(blob);
    text.focus();
  },
  () => text.focus(),
);

text.addEventListener("input", () => {
  cut = false;
  describeText();
  soon();
});
for (const input of [minus, balance]) input.addEventListener("input", () => soon());
$("query").addEventListener("submit", (event) => {
  event.preventDefault();
  soon(true);
});
text.addEventListener("keydown", (event) => {
  const atEnd = text.selectionStart === text.value.length;
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    soon(true);
  } else if (event.key === "ArrowDown" && atEnd && $("grid").children.length) {
    event.preventDefault();
    results.focus(0);
  } else if (event.key === "Escape" && text.value) {
    text.value = "";
    text.dispatchEvent(new Event("input"));
  }
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=range]):not([type=file]), textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    text.focus();
    text.select();
  }
});

async function start() {
  try {
    [card] = (await get("v1/models")).data;
  } catch (error) {
    failed(error);
    return;
  }
  const pictures = card.pictures === null ? "no index of pictures" : `${card.pictures.toLocaleString("en")} pictures`;
  $("model").textContent = `${card.id} · ${pictures}`;
  text.maxLength = card.limits.text_chars;
  $("search").hidden = card.pictures === null;
  document.querySelector(".refine").hidden = card.pictures === null;
  document.querySelector(".columns").classList.toggle("alone", card.pictures === null);
  if (!card.texts) {
    text.disabled = minus.disabled = true;
    $("labels").hidden = true;
    $("about").textContent = "This server's model encodes pictures only.";
  }
  soon(true);
}

start();
