// Which words of a text bring a picture up, and which hold it back.

import { post } from "./api.js";

function line(text) {
  const p = document.createElement("p");
  p.className = "hint";
  p.textContent = text;
  return p;
}

/** The text with each part coloured by what it does; `target` is {id} or {image}. Nodes to show. */
export async function explain(text, target, signal) {
  const answer = await post("v1/explain", { text, ...target }, signal);
  const largest = Math.max(...answer.parts.map((part) => Math.abs(part.effect)), 1e-6);
  const letters = Array.from(text); // the server counts code points
  const shown = document.createElement("p");
  shown.className = "heat";
  shown.dir = "auto";
  let at = 0;
  for (const part of answer.parts) {
    shown.append(letters.slice(at, part.start).join(""));
    const word = document.createElement("span");
    word.textContent = letters.slice(part.start, part.end).join("");
    word.className = part.effect >= 0 ? "for" : "against";
    word.style.setProperty("--heat", (0.75 * Math.abs(part.effect) / largest).toFixed(3));
    word.title = `${part.effect >= 0 ? "+" : ""}${part.effect.toFixed(3)}`;
    shown.append(word);
    at = part.end;
  }
  shown.append(letters.slice(at).join(""));
  const best = [...answer.parts].sort((a, b) => b.effect - a.effect).filter((part) => part.effect > 0).slice(0, 3);
  const worst = answer.parts.filter((part) => part.effect < -0.15 * largest).sort((a, b) => a.effect - b.effect)[0];
  const said = [`Likeness ${answer.score.toFixed(3)}.`];
  if (best.length) said.push(`Most of it comes from ${best.map((part) => `“${part.text}”`).join(", ")}.`);
  if (worst) said.push(`“${worst.text}” speaks against it.`);
  return [line(said.join(" ")), shown, line("Each word is weighed by leaving it out.")];
}
