// Requests to the server that this page came from, with the key where one is needed.

let key = sessionStorage.getItem("key");
let asking = null;
let declined = false;

/** What the server said instead of an answer. */
export class Refused extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Ask for the key once, however many requests were refused for want of it; never again once the dialog was left. */
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("locked");
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener("close", () => {
      declined = dialog.returnValue !== "given";
      if (!declined) {
        key = document.getElementById("key").value.trim();
        sessionStorage.setItem("key", key);
      }
      document.getElementById("key").value = "";
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

async function request(path, options) {
  for (;;) {
    const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
    const response = await fetch(path, { ...options, headers });
    if (response.status === 401 && !declined) {
      await askForKey();
      if (!declined) continue;
    }
    if (response.ok) return response;
    const said = await response.json().catch(() => null);
    const message = said?.error?.message ?? `the server answered ${response.status}`;
    const again = response.status === 401 ? "; load the page again to give it" : "";
    throw new Refused(response.status, message + again, Number(response.headers.get("retry-after")));
  }
}

export async function get(path) {
  return (await request(path, {})).json();
}

export async function getBlob(path) {
  return (await request(path, {})).blob();
}

export async function post(path, values, signal) {
  const headers = { "content-type": "application/json" };
  return (await request(path, { method: "POST", headers, body: JSON.stringify(values), signal })).json();
}

/** Runs the latest of many calls: one that is overtaken is broken off, and its answer never used. */
export class Latest {
  #number = 0;
  #controller = null;

  cancel() {
    this.#number += 1;
    this.#controller?.abort();
  }

  /** The result, or undefined if another call came since. A server that is busy is asked again when it said. */
  async run(call) {
    this.cancel();
    const number = this.#number;
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    for (;;) {
      try {
        const result = await call(signal);
        return number === this.#number ? result : undefined;
      } catch (error) {
        if (number !== this.#number) return undefined;
        if (!(error instanceof Refused) || error.status !== 429) throw error;
        await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || 1)));
        if (number !== this.#number) return undefined;
      }
    }
  }
}

/** Calls `action` once nothing has happened for a while. */
export function debounced(action, milliseconds) {
  let timer = 0;
  return (now = false) => {
    clearTimeout(timer);
    if (now === true) action();
    else timer = setTimeout(action, milliseconds);
  };
}
