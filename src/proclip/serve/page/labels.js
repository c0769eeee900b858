// Zero-shot labels: an editor of class names, with a bar for each.

import { debounced, Latest, post } from "./api.js";

const FIRST = ["animal", "vehicle", "food", "person", "building", "plant"];

export class Labels {
  #latest = new Latest();
  #picture = null;
  #run;

  constructor(failed) {
    this.failed = failed;
    this.list = document.getElementById("bars");
    this.template = document.getElementById("template");
    this.#run = debounced(() => this.#classify(), 250);
    for (const label of FIRST) this.#add(label);
    this.template.addEventListener("input", this.#run);
    document.getElementById("add").addEventListener("submit", (event) => {
      event.preventDefault();
      const input = document.getElementById("new");
      if (input.value.trim()) this.#add(input.value.trim());
      input.value = "";
      this.#run(true);
    });
  }

  /** Classify another picture (a data URL), or none. */
  of(picture) {
    this.#picture = picture;
    document.getElementById("labels-about").textContent = picture
      ? "Which of these fits the picture best. Change them, add others."
      : "Choose a picture: the bars then say which of your labels fits it best.";
    this.#run(true);
  }

  #add(label) {
    const row = document.createElement("li");
    const input = document.createElement("input");
    input.value = label;
    input.dir = "auto";
    input.setAttribute("aria-label", "Label");
    input.addEventListener("input", this.#run);
    const share = document.createElement("output");
    share.className = "share";
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", "Remove this label");
    remove.addEventListener("click", () => {
      (row.nextElementSibling ?? row.previousElementSibling)?.querySelector("input").focus();
      row.remove();
      this.#run(true);
    });
    const track = document.createElement("div");
    track.className = "track";
    track.append(document.createElement("span"));
    row.append(input, share, remove, track);
    this.list.append(row);
  }

  #show(row, text, width, best = false) {
    row.querySelector(".share").textContent = text;
    row.querySelector(".track span").style.width = `${(100 * width).toFixed(1)}%`;
    row.classList.toggle("best", best);
  }

  async #classify() {
    const rows = Array.from(this.list.children);
    const named = rows.filter((row) => row.querySelector("input").value.trim());
    for (const row of rows) if (!this.#picture || !named.includes(row)) this.#show(row, "", 0);
    const fits = this.template.value.includes("{}");
    this.template.setAttribute("aria-invalid", String(!fits));
    if (!this.#picture || !named.length || !fits) {
      this.#latest.cancel();
      return;
    }
    const labels = named.map((row) => row.querySelector("input").value.trim());
    const asked = { input: { image: this.#picture }, labels, templates: [this.template.value] };
    try {
      const answer = await this.#latest.run((signal) => post("v1/classify", asked, signal));
      if (!answer) return;
      const [{ predictions, prediction }] = answer.data;
      const byLabel = new Map(predictions.map((one) => [one.label, one]));
      named.forEach((row, place) => {
        const { score, probability } = byLabel.get(labels[place]);
        const text = probability === null ? score.toFixed(3) : `${(100 * probability).toFixed(1)} %`;
        this.#show(row, text, probability ?? Math.max(0, score), labels[place] === prediction);
      });
      this.failed("");
    } catch (error) {
      this.failed(error.message);
    }
  }
}
