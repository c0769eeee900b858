// The pictures that were found: a grid to walk through with the arrow keys, and one picture large, with its reasons.

import { getBlob, Latest } from "./api.js";
import { explain } from "./heat.js";

const KEPT = 300;

/** Thumbnails by id, each a blob and its URL; the oldest are let go. */
class Thumbnails {
  #kept = new Map();

  async get(id) {
    if (!this.#kept.has(id)) {
      this.#kept.set(id, getBlob(`v1/thumbnails/${id}`).then((blob) => ({ blob, url: URL.createObjectURL(blob) })));
      for (const old of this.#kept.keys()) {
        if (this.#kept.size <= KEPT) break;
        this.#kept.get(old).then(({ url }) => URL.revokeObjectURL(url), () => {});
        this.#kept.delete(old);
      }
    }
    try {
      return await this.#kept.get(id);
    } catch (error) {
      this.#kept.delete(id);
      throw error;
    }
  }
}

export class Results {
  #thumbnails = new Thumbnails();
  #latest = new Latest();
  #hits = [];
  #text = "";
  #open = 0;
  #waiting = null;

  /** `use` is called with the blob of a picture that is to be the query, `back` to leave the grid. */
  constructor(use, back) {
    this.grid = document.getElementById("grid");
    this.dialog = document.getElementById("detail");
    this.back = back;
    this.grid.addEventListener("keydown", (event) => this.#walk(event));
    document.getElementById("close").addEventListener("click", () => this.dialog.close());
    document.getElementById("previous").addEventListener("click", () => this.#turn(-1));
    document.getElementById("next").addEventListener("click", () => this.#turn(1));
    document.getElementById("use").addEventListener("click", async () => {
      const { id } = this.#hits[this.#open];
      this.dialog.close();
      use((await this.#thumbnails.get(id)).blob);
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.#turn(-1);
      if (event.key === "ArrowRight") this.#turn(1);
    });
    this.dialog.addEventListener("close", () => {
      this.#latest.cancel();
      if (this.#waiting) this.show(...this.#waiting);
      this.focus(this.#open);
    });
  }

  /** Show other pictures; whoever stands in the grid stays at that place, and one that is open stays until closed. */
  show(hits, text) {
    this.#waiting = this.dialog.open ? [hits, text] : null;
    if (this.#waiting) return;
    const place = Array.from(this.grid.children).findIndex((item) => item.contains(document.activeElement));
    this.#hits = hits;
    this.#text = text;
    this.grid.classList.remove("old");
    this.grid.replaceChildren(...hits.map((hit, number) => this.#item(hit, number)));
    if (place >= 0) this.focus(place);
  }

  #item(hit, place) {
    const image = document.createElement("img");
    image.alt = "";
    this.#thumbnails.get(hit.id).then(({ url }) => { image.src = url; }, () => { image.alt = "not there any more"; });
    const under = document.createElement("span");
    under.className = "under";
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = hit.name;
    const score = document.createElement("span");
    score.textContent = hit.score.toFixed(3);
    under.append(name, score);
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = place === 0 ? 0 : -1;
    button.setAttribute("aria-label", `${place + 1}: ${hit.name}, likeness ${hit.score.toFixed(3)}`);
    button.append(image, under);
    button.addEventListener("click", () => this.open(place));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  focus(place) {
    const buttons = this.grid.querySelectorAll("button");
    if (!buttons.length) return;
    const wanted = buttons[Math.max(0, Math.min(buttons.length - 1, place))];
    for (const button of buttons) button.tabIndex = button === wanted ? 0 : -1;
    wanted.focus();
  }

  #walk(event) {
    const buttons = Array.from(this.grid.querySelectorAll("button"));
    const place = buttons.indexOf(document.activeElement);
    const top = buttons[0].offsetTop;
    const below = buttons.findIndex((button) => button.offsetTop > top);
    const columns = below < 0 ? buttons.length : below;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns,
      Home: -place, End: buttons.length - 1 - place };
    if (event.key === "Escape" || (event.key === "ArrowUp" && place < columns)) this.back();
    else if (event.key in steps) this.focus(place + steps[event.key]);
    else return;
    event.preventDefault();
  }

  async open(place) {
    this.#open = place;
    const hit = this.#hits[place];
    document.getElementById("detail-name").textContent = hit.name;
    document.getElementById("previous").disabled = place === 0;
    document.getElementById("next").disabled = place === this.#hits.length - 1;
    const picture = document.getElementById("detail-picture");
    const why = document.getElementById("detail-why");
    why.replaceChildren();
    picture.alt = hit.name;
    picture.removeAttribute("src");
    if (!this.dialog.open) this.dialog.showModal();
    try {
      picture.src = (await this.#thumbnails.get(hit.id)).url;
      if (!this.#text) return;
      why.textContent = "Weighing the words…";
      const nodes = await this.#latest.run((signal) => explain(this.#text, { id: hit.id }, signal));
      if (nodes) why.replaceChildren(...nodes);
    } catch (error) {
      why.textContent = error.message;
    }
  }

  #turn(step) {
    const place = this.#open + step;
    if (place >= 0 && place < this.#hits.length) this.open(place);
  }
}
