"use strict";
const api = "__DOCUMENT__";
const schemas = api.components.schemas;
const el = (name, attributes, ...children) => {
  const node = document.createElement(name);
  Object.entries(attributes || {}).forEach(([key, value]) => node.setAttribute(key, value));
  node.append(...children);
  return node;
};
const refName = (schema) => (schema && schema.$ref ? schema.$ref.split("/").pop() : "");
const resolve = (schema) => (schema && schema.$ref ? schemas[refName(schema)] : schema || {});
const alternatives = (schema) => schema.anyOf || schema.oneOf;

function typeOf(schema) {
  if (!schema) return "any";
  if (schema.$ref) return refName(schema);
  if (alternatives(schema)) return alternatives(schema).map(typeOf).join(" | ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.type === "array") return `${typeOf(schema.items)}[]`;
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  return schema.format || schema.type || "any";
}

const hasExample = (schema) => Boolean(schema.examples || (alternatives(schema) || []).some((one) => one.examples));

function example(schema, depth = 0) {
  const found = resolve(schema);
  if (found.example !== undefined) return found.example;
  if (found.examples) return found.examples[0];
  if (found.default !== undefined && found.default !== null && typeof found.default !== "object") return found.default;
  if (alternatives(found)) return example(alternatives(found).find((one) => one.type !== "null") || {}, depth);
  if (found.enum) return found.enum[0];
  if (found.type === "object") {
    const fields = {};
    const wanted = new Set(found.required || []);
    Object.entries(found.properties || {}).forEach(([name, one]) => {
      if (depth < 3 && (wanted.has(name) || hasExample(one))) fields[name] = example(one, depth + 1);
    });
    return fields;
  }
  if (found.type === "array") return depth < 3 && found.items ? [example(found.items, depth + 1)] : [];
  return { integer: 1, number: 1, boolean: true }[found.type] ?? (found.format === "date-time" ? "2026-01-31T12:00:00Z" : "text");
}

function fields(schema) {
  const found = resolve(schema);
  const rows = Object.entries(found.properties || {}).map(([name, one]) => {
    const named = refName(one) || refName(one.items) || (alternatives(one) || []).map(refName).find(Boolean);
    const type = named ? el("a", { href: `#schema-${named}` }, typeOf(one)) : typeOf(one);
    const needed = (found.required || []).includes(name) ? "required" : "";
    const text = el("td", {}, type, " ", el("span", { class: "soft" }, needed), el("div", { class: "soft" }, one.description || ""));
    return el("tr", {}, el("td", {}, el("code", {}, name)), text);
  });
  return rows.length ? el("table", {}, ...rows) : el("p", { class: "soft" }, found.description || typeOf(schema));
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

function curl(method, path, call) {
  const words = ["curl", "-s"];
  if (method !== "GET") words.push("-X", method);
  const key = document.getElementById("key").value;
  if (key) words.push("-H", quoted(`Authorization: Bearer ${key}`));
  const contents = call.requestBody ? Object.entries(call.requestBody.content)[0] : null;
  if (contents) {
    words.push("-H", quoted(`Content-Type: ${contents[0]}`));
    words.push("-d", quoted(JSON.stringify(example(contents[1].schema))));
  }
  return [...words, quoted(location.origin + path)].join(" ");
}

function shown(method, path, call) {
  const inner = el("div", {});
  if (call.description) inner.append(el("p", { class: "soft" }, call.description));
  if (call.parameters.length) {
    const rows = call.parameters.map((one) =>
      el("tr", {}, el("td", {}, el("code", {}, one.name), " ", el("span", { class: "soft" }, one.in)),
        el("td", {}, typeOf(one.schema), el("div", { class: "soft" }, one.description || ""))));
    inner.append(el("h3", {}, "Parameters"), el("table", {}, ...rows));
  }
  Object.entries(call.requestBody ? call.requestBody.content : {}).forEach(([kind, content]) => {
    inner.append(el("h3", {}, `Body, ${kind}`), fields(content.schema));
  });
  const answers = Object.entries(call.responses).map(([status, response]) => {
    const content = Object.values(response.content || {})[0] || {};
    const name = refName(content.schema);
    const text = el("td", {}, response.description.replaceAll("`", ""), " ");
    if (name) text.append(el("a", { href: `#schema-${name}` }, name));
    return el("tr", {}, el("td", {}, el("code", {}, status)), text);
  });
  inner.append(el("h3", {}, "Answers"), el("table", {}, ...answers), el("h3", {}, "Try it"));
  const command = el("pre", {}, curl(method, path, call));
  document.getElementById("key").addEventListener("input", () => { command.textContent = curl(method, path, call); });
  inner.append(command);
  const summary = el("summary", {}, el("span", { class: `method ${method}` }, method), el("code", {}, path), el("span", { class: "soft" }, call.summary));
  return el("details", { class: "call", id: call.operationId }, summary, inner);
}

function build() {
  const main = document.getElementById("main");
  const nav = document.getElementById("nav");
  main.replaceChildren();
  document.getElementById("title").textContent = `${api.info.title} API ${api.info.version}`;
  main.append(...api.info.description.split("\n\n").map((text) => el("p", { class: "soft" }, text.replaceAll("`", ""))));
  const groups = new Map();
  Object.entries(api.paths).forEach(([path, calls]) => Object.entries(calls).forEach(([method, call]) => {
    groups.set(call.tags[0], [...(groups.get(call.tags[0]) || []), [method.toUpperCase(), path, call]]);
  }));
  groups.forEach((calls, tag) => {
    main.append(el("h2", {}, tag));
    nav.append(el("b", {}, tag));
    calls.forEach(([method, path, call]) => {
      main.append(shown(method, path, call));
      nav.append(el("a", { href: `#${call.operationId}` }, `${method} ${path.replace("/api/v1", "")}`));
    });
  });
  main.append(el("h2", {}, "schemas"));
  Object.entries(schemas).forEach(([name, schema]) => main.append(
    el("details", { class: "call", id: `schema-${name}` }, el("summary", {}, el("code", {}, name), el("span", { class: "soft" }, (schema.description || "").split("\n")[0])), el("div", {}, fields(schema)))));
}

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target) { target.open = true; target.scrollIntoView(); }
}

document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  document.querySelectorAll("details.call").forEach((one) => {
    one.hidden = !one.firstChild.textContent.toLowerCase().includes(wanted);
  });
});
build();
addEventListener("hashchange", openTarget);
openTarget();
