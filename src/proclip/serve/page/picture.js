// The picture of the query: dropped, pasted or chosen, made small here, so that typing does not send megabytes.

const LONGEST = 768;

/** A picture file as a data URL of at most 768 pixels a side, upright, on white. */
export async function smallDataUrl(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.95);
}

/** The slot on the page; `changed` is called with a data URL, or null, and `failed` with what went wrong. */
export class PictureSlot {
  constructor(changed, failed) {
    this.url = null;
    this.changed = changed;
    this.failed = failed;
    const slot = document.getElementById("slot");
    const file = document.getElementById("file");
    file.addEventListener("change", () => {
      if (file.files[0]) this.take(file.files[0]);
      file.value = "";
    });
    document.getElementById("remove").addEventListener("click", () => {
      this.#show(null);
      document.getElementById("file").focus();
    });
    let inside = 0;
    document.addEventListener("dragenter", (event) => {
      event.preventDefault();
      inside += 1;
      slot.classList.add("over");
    });
    document.addEventListener("dragleave", () => {
      inside -= 1;
      if (inside <= 0) slot.classList.remove("over");
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      inside = 0;
      slot.classList.remove("over");
      this.#takeFirst(event.dataTransfer.files);
    });
    document.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) {
        event.preventDefault();
        this.#takeFirst(event.clipboardData.files);
      }
    });
  }

  #takeFirst(files) {
    const picture = Array.from(files).find((file) => file.type.startsWith("image/"));
    if (picture) this.take(picture);
    else this.failed("That is not a picture.");
  }

  async take(blob) {
    try {
      this.#show(await smallDataUrl(blob));
    } catch {
      this.failed("This browser cannot read that picture.");
    }
  }

  #show(url) {
    this.url = url;
    const image = document.getElementById("picked");
    if (url) image.src = url;
    else image.removeAttribute("src");
    image.hidden = document.getElementById("remove").hidden = !url;
    document.getElementById("invite").hidden = Boolean(url);
    document.getElementById("choose").textContent = url ? "Choose another" : "Choose a picture";
    this.changed(url);
  }
}
