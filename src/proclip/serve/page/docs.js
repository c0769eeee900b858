// openapi.json as a page: every operation, its fields, its answers, and a call to copy.

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

const name = (reference) => reference.split("/").pop();

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return name(schema.$ref);
  if (schema.anyOf) return [...new Set(schema.anyOf.map(typeOf))].join(" or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.type === "object" && schema.properties) return `{${Object.keys(schema.properties).join(", ")}}`;
  return schema.type ?? "";
}

function fields(schema) {
  const table = element("table");
  for (const [field, one] of Object.entries(schema.properties ?? {})) {
    const required = schema.required?.includes(field);
    const notes = [required ? "required" : "", one.description ?? ""];
    if (one.default !== undefined && one.default !== null) notes.push(`default ${JSON.stringify(one.default)}`);
    const row = element("tr", "", element("th", "", element("code", field)), element("td", typeOf(one)));
    row.append(element("td", notes.filter(Boolean).join("; ")));
    table.append(row);
  }
  return table;
}

const EXAMPLES = {
  "/v1/embeddings": { input: ["ein Feuerwehrauto", { image: "data:image/png;base64,..." }] },
  "/v1/search": { text: "a red truck with a ladder on its roof", k: 5 },
  "/v1/classify": { input: { image: "data:image/png;base64,..." }, labels: ["cat", "dog"], templates: ["a photo of a {}"] },
  "/v1/explain": { text: "a red truck", id: "ID_OF_A_PICTURE_FOUND" },
};

function call(path, method, secured) {
  const base = new URL(".", location.href).href.replace(/\/$/, "");
  const lines = [`curl ${base}${path.replace(/[{}]/g, "")}`];
  if (secured) lines.push("  -H 'Authorization: Bearer KEY'");
  if (method === "post") lines.push("  -H 'Content-Type: application/json'", `  -d '${JSON.stringify(EXAMPLES[path] ?? {})}'`);
  return element("pre", lines.join(" \\\n"));
}

const schema = await (await fetch("openapi.json")).json();
const main = document.getElementById("operations");
const used = new Set();

function follow(part) {
  for (const found of JSON.stringify(part).matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
    if (!used.has(found[1])) {
      used.add(found[1]);
      follow(schema.components.schemas[found[1]]);
    }
  }
}

for (const [path, operations] of Object.entries(schema.paths)) {
  for (const [method, operation] of Object.entries(operations)) {
    const card = element("article", "", element("h2", `${method.toUpperCase()} ${path}`));
    card.append(element("p", operation.description ?? operation.summary));
    const body = operation.requestBody?.content["application/json"].schema;
    if (body) card.append(fields(schema.components.schemas[name(body.$ref)]));
    card.append(call(path, method, Boolean(operation.security)));
    const answers = element("table");
    for (const [status, answer] of Object.entries(operation.responses)) {
      const [type] = Object.values(answer.content ?? {});
      answers.append(element("tr", "", element("th", status), element("td", answer.description),
        element("td", typeOf(type?.schema))));
    }
    card.append(answers);
    main.append(card);
    follow(operation);
  }
}
for (const one of [...used].sort()) {
  const part = schema.components.schemas[one];
  main.append(element("article", "", element("h2", one), element("p", part.description), fields(part)));
}
