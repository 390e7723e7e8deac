// Templates: a list, and an editor with a live preview of what is being written.
import { ApiProblem, call, can, get, post, useData } from "../core/api.js";
import { number } from "../core/format.js";
import { at, go } from "../core/router.js";
import { html, useState } from "../core/view.js";
import { CHANNEL_NAMES, channelName } from "../core/words.js";
import { Badge, Button, Empty, Fact, Loaded, Page, Problem } from "../parts/basics.js";
import { Dialog, ask } from "../parts/dialog.js";
import { Field, Form, problemOf } from "../parts/form.js";
import { Preview, usePreview } from "../parts/mail.js";
import { Table } from "../parts/table.js";
import { toast } from "../parts/toasts.js";

const COLUMNS = [
  { name: "Template", kind: "words", cell: (row) => html`<a href=${at(`/templates/${row.id}`)}>${row.name}</a><span class="sub"><code>${row.id}</code></span>` },
  { name: "Channels", cell: (row) => row.channels.map(channelName).join(", ") },
  { name: "Category", cell: (row) => html`<${Badge} tone=${row.category === "marketing" ? "warn" : "calm"}>${row.category}<//>` },
  { name: "Subject", kind: "words", cell: (row) => row.subject || "–" },
  { name: "Variables", kind: "words", cell: (row) => row.variables.map((one) => one.name).join(", ") || "none" },
  { name: "Version", kind: "num", cell: (row) => number(row.version) },
];

export function Templates() {
  const found = useData("/api/templates");
  return html`<${Page} title="Templates" actions=${can("admin") && html`<a class="button main" href=${at("/templates/new")}>New template</a>`}>
    <section class="card flush"><${Loaded} of=${found}>${({ templates }) => html`<${Table} caption="Templates" columns=${COLUMNS} rows=${templates} id=${(row) => row.id}
      empty=${html`<${Empty} title="No template yet.">A template says what is sent; a blast says to whom.<//>`} />`}<//></section><//>`;
}

const NEW = { id: "", name: "", channels: ["email"], category: "transactional", type: "notification", subject: "Hello {{ name }}", html: "", text: "Hello {{ name }},\n", variables: [], whatsapp: null, language: "" };
const WHATSAPP = { templateName: "", language: "id", headerVariables: [], bodyVariables: [], buttonVariables: [], namespace: "", documentFilename: "" };
const TYPES = ["string", "number", "date", "email", "phone", "url"].map((one) => [one, one]);
const LISTS = [["headerVariables", "Header"], ["bodyVariables", "Body"], ["buttonVariables", "Buttons", " With its type and index: quick_reply 1: name."]];
const BUTTON = /^(url|quick_reply|copy_code|otp|flow|catalog)(?: (\d))?: (.*)/;

/** Return a value of a list as a line; a button that has a type begins with it. */
const lineOf = (one) => (one.type ? `${one.type}${one.index == null ? "" : ` ${one.index}`}: ${one.value}` : one);

/** Return the button that a line is. */
function buttonOf(line) {
  const [, type, index, value] = BUTTON.exec(line) || [];
  return type ? { value, type, index: index && Number(index) } : line;
}

/** Return the body that PUT takes: the view without its id and version; lists are lines once they have been changed. */
function contentOf({ id: _id, version: _version, whatsapp, ...rest }) {
  if (!whatsapp && !rest.channels.includes("whatsapp")) return rest;
  const one = { ...WHATSAPP, ...whatsapp };
  for (const [name] of LISTS) one[name] = one[name].filter((each) => each.type || each.trim());
  return { ...rest, whatsapp: { ...one, buttonVariables: one.buttonVariables.map(buttonOf) } };
}

const exampleOf = (one) => one.example ?? one.default ?? { number: 5, url: "https://example.com/", date: "2026-01-31", email: "siti@example.com", phone: "+6281234567890" }[one.type] ?? one.name;

const recipientOf = (draft, values) => ({
  name: values.name ?? "Siti", email: "siti@example.com", phone: "+6281234567890",
  variables: Object.fromEntries(draft.variables.filter((one) => one.name).map((one) => [one.name, values[one.name] || exampleOf(one)])),
});

function Variables({ draft, set, problem }) {
  const change = (place, changes) => set("variables")(draft.variables.map((one, index) => (index === place ? { ...one, ...changes } : one)));
  return html`<fieldset class="stack"><legend>Variables</legend>
    ${draft.variables.map((one, place) => html`<div class="fields variable" key=${place}>
      <${Field} label="Name" value=${one.name} onInput=${(name) => change(place, { name })} problem=${problemOf(problem, `variables[${place}].name`)} />
      <${Field} label="Type" value=${one.type} options=${TYPES} onInput=${(type) => change(place, { type })} />
      <${Field} label="Example" value=${one.example ?? ""} onInput=${(example) => change(place, { example: example || null })} problem=${problemOf(problem, `variables[${place}].example`)} />
      <${Field} label="Default" value=${one.default ?? ""} disabled=${one.sensitive} onInput=${(text) => change(place, { default: text || null })} problem=${problemOf(problem, `variables[${place}].default`)} />
      <${Field} kind="check" label="required" value=${one.required} onInput=${(required) => change(place, { required })} />
      <${Field} kind="check" label="secret" value=${one.sensitive} onInput=${(sensitive) => change(place, { sensitive, ...(sensitive ? { default: null } : {}) })} />
      <button type="button" onClick=${() => set("variables")(draft.variables.filter((_, index) => index !== place))}>Remove<span class="hidden"> ${one.name}</span></button></div>`)}
    <div><button type="button" onClick=${() => set("variables")([...draft.variables, { name: "", type: "string", required: true, default: null, example: null, description: "", sensitive: false }])}>Add a variable</button></div></fieldset>`;
}

function WhatsApp({ draft, set, problem }) {
  const one = { ...WHATSAPP, ...draft.whatsapp };
  const change = (name) => (value) => set("whatsapp")({ ...one, [name]: value });
  const list = ([name, label, more = ""]) => html`<${Field} kind="area" label=${label} hint=${`One on each line, in order.${more}`} value=${one[name].map(lineOf).join("\n")} onInput=${(text) => change(name)(text.split("\n"))} problem=${problem?.problems?.find((each) => each.field.startsWith(`whatsapp.${name}`))?.message} />`;
  return html`<fieldset class="fields"><legend>WhatsApp</legend>
    <${Field} label="Approved template" value=${one.templateName} onInput=${change("templateName")} problem=${problemOf(problem, "whatsapp.templateName")} />
    <${Field} label="Language" value=${one.language} onInput=${change("language")} problem=${problemOf(problem, "whatsapp.language")} />
    ${LISTS.map(list)}</fieldset>`;
}

const SHOWN = ["id", "name", "subject", "html", "text", "channels", "language"];

function Editor({ draft, set, save, isNew }) {
  const channel = (name) => (on) => set("channels")(on ? [...draft.channels, name] : draft.channels.filter((one) => one !== name));
  return html`<section class="card"><${Form} act=${save} action=${can("admin") && (isNew ? "Create the template" : "Save as the next version")} shown=${SHOWN}>${(problem) => html`<div class="stack">
    <div class="fields">${isNew && html`<${Field} label="Id" value=${draft.id} onInput=${set("id")} problem=${problemOf(problem, "id")} hint="Letters, digits, dots, dashes." />`}
      <${Field} label="Name" value=${draft.name} onInput=${set("name")} problem=${problemOf(problem, "name")} />
      <${Field} label="Category" value=${draft.category} onInput=${set("category")} options=${[["transactional", "transactional"], ["marketing", "marketing"]]} />
      <${Field} label="Language of dates and numbers" value=${draft.language} onInput=${set("language")} problem=${problemOf(problem, "language")} placeholder="id" />
      <fieldset class="choices wide"><legend>Channels</legend>${Object.keys(CHANNEL_NAMES).map((name) => html`<${Field} key=${name} kind="check" label=${channelName(name)} value=${draft.channels.includes(name)} onInput=${channel(name)} />`)}
        ${problemOf(problem, "channels") && html`<p class="field-problem">${problemOf(problem, "channels")}</p>`}</fieldset></div>
    ${draft.channels.includes("email") && html`<${Field} label="Subject" value=${draft.subject} onInput=${set("subject")} problem=${problemOf(problem, "subject")} />
      <${Field} kind="area" label="HTML" class="code" value=${draft.html} onInput=${set("html")} problem=${problemOf(problem, "html")} spellcheck="false" />
      <${Field} kind="area" label="Text" class="code" value=${draft.text} onInput=${set("text")} problem=${problemOf(problem, "text")} />`}
    ${draft.channels.includes("whatsapp") && html`<${WhatsApp} draft=${draft} set=${set} problem=${problem} />`}
    <${Variables} draft=${draft} set=${set} problem=${problem} /></div>`}<//></section>`;
}

function Shown({ draft }) {
  const [channel, setChannel] = useState(draft.channels[0]);
  const [values, setValues] = useState({});
  const chosen = draft.channels.includes(channel) ? channel : draft.channels[0];
  const { preview, problem, warnings } = usePreview(JSON.stringify({
    template: { ...contentOf(draft), name: draft.name || "draft" }, channel: chosen || "email", recipient: recipientOf(draft, values),
  }));
  return html`<section class="card stack preview" aria-label="Preview"><div class="card-head"><h2>Preview</h2>
      ${draft.channels.length > 1 && html`<div class="actions" role="group" aria-label="Channel of the preview">${draft.channels.map((name) => html`<button type="button" aria-pressed=${name === chosen} onClick=${() => setChannel(name)}>${channelName(name)}</button>`)}</div>`}</div>
    <${Problem} problem=${problem} />${warnings?.map((one) => html`<p class="wait warn">${one.message}</p>`)}
    ${preview && html`<${Preview} preview=${preview} name=${draft.whatsapp?.templateName} />`}
    <details class="more"><summary>Values of the preview</summary><div class="fields"><${Field} label="name" value=${values.name ?? "Siti"} onInput=${(name) => setValues((now) => ({ ...now, name }))} />
      ${draft.variables.filter((one) => one.name).map((one) => html`<${Field} key=${one.name} label=${one.name} value=${values[one.name] ?? ""} placeholder=${String(exampleOf(one))} onInput=${(value) => setValues((now) => ({ ...now, [one.name]: value }))} />`)}</div></details></section>`;
}

function SendTest({ draft, close }) {
  const [channel, setChannel] = useState(draft.channels[0]);
  const [address, setAddress] = useState("");
  const field = channel === "email" ? "email" : "phone";
  const act = async () => {
    const { name, variables } = recipientOf(draft, {});
    const answer = await post("/api/messages", { templateId: draft.id, channel, recipient: { name, variables, [field]: address.trim() } });
    toast("The test is on its way.");
    return () => { go(at(`/messages/${answer.jobId}`)); close(); };
  };
  return html`<${Dialog} title="Send a test" onClose=${close}><p>It is sent for real, with the examples as values, in the version that was saved last.</p>
    <${Form} act=${act} action="Send it" shown=${[`recipient.${field}`]} before=${html`<button type="button" onClick=${close}>Close</button>`}>${(problem) => html`<div class="fields">
      <${Field} label="Channel" value=${channel} onInput=${setChannel} options=${draft.channels.map((name) => [name, channelName(name)])} />
      <${Field} label="To" value=${address} onInput=${setAddress} problem=${problemOf(problem, `recipient.${field}`)} placeholder=${field === "email" ? "you@example.com" : "+6281234567890"} /></div>`}<//><//>`;
}

function Requirements({ id }) {
  const found = useData(`/api/templates/${id}/requirements`);
  if (!found.data) return null;
  const { requirements: one } = found.data;
  return html`<section class="card"><h2>What a recipient needs</h2><dl class="facts"><${Fact} name="Addresses">${Object.entries(one.addresses).map(([name, field]) => `${field} (${channelName(name)})`).join(", ")}<//>
    <${Fact} name="Required variables">${one.required.join(", ") || "none"}<//>${one.requiredFields.length > 0 && html`<${Fact} name="Required fields">${one.requiredFields.join(", ")}<//>`}<${Fact} name="Header of a CSV file"><code>${one.columns.join(",")}</code><//></dl></section>`;
}

function Opened({ template, isNew }) {
  const [draft, setDraft] = useState(template);
  const [testing, setTesting] = useState(false);
  const set = (name) => (value) => setDraft((now) => ({ ...now, [name]: value }));
  const save = async () => {
    const path = `/api/templates/${draft.id}`;
    const latest = isNew ? draft.version : (await get(path)).template.version;
    if (latest !== draft.version) {
      // the person decides: saved once more, it is the next version
      set("version")(latest);
      throw new ApiProblem(0, { message: `Version ${latest} was saved meanwhile; another tab shows it. Saving again replaces it.` });
    }
    const answer = isNew ? await post("/api/templates", { id: draft.id, ...contentOf(draft) }) : await call("PUT", path, contentOf(draft));
    toast(`${answer.template.name} is saved as version ${answer.template.version}.`);
    // what was written while it was being saved stays
    const saved = (now) => (now === draft ? answer.template : { ...now, version: answer.template.version });
    return () => (isNew ? go(at(`/templates/${answer.template.id}`)) : setDraft(saved));
  };
  const remove = () => ask({
    title: `Delete ${draft.name}?`, text: "Blasts that began with it keep their version.", action: "Delete it", danger: true,
    act: async () => { await call("DELETE", `/api/templates/${draft.id}`); toast("The template is deleted."); go(at("/templates")); },
  });
  const actions = !isNew && html`${can("send") && html`<a class="button" href=${at("/send", { template: draft.id })}>Send it</a><button type="button" onClick=${() => setTesting(true)}>Send a test</button>`}
    ${can("admin") && html`<${Button} kind="danger" onClick=${remove}>Delete<//>`}`;
  return html`<${Page} label=${isNew ? "New template" : template.name} title=${isNew ? "New template" : html`<bdi>${template.name}</bdi> <${Badge}>version ${draft.version}<//>`} actions=${actions}>
    <div class="columns wide"><div class="stack"><${Editor} draft=${draft} set=${set} save=${save} isNew=${isNew} />${!isNew && html`<${Requirements} key=${draft.version} id=${draft.id} />`}</div><${Shown} draft=${draft} /></div>
    ${testing && html`<${SendTest} draft=${draft} close=${() => setTesting(false)} />`}<//>`;
}

export function Template({ id }) {
  const isNew = id === "new";
  const found = useData(isNew ? null : `/api/templates/${encodeURIComponent(id)}`);
  if (isNew) return html`<${Opened} template=${NEW} isNew />`;
  if (!found.data && found.problem) return html`<${Page} title="Template"><${Loaded} of=${found} /><//>`;
  return html`<${Loaded} of=${found}>${({ template }) => html`<${Opened} template=${template} />`}<//>`;
}
