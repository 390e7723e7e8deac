// Send: a file of recipients, its columns, its problems beside their rows, a preview, and then the blast.
import { call, can, mustBeSame, useData, useTurns } from "../core/api.js";
import { encodingOf, plainName, readCsv, withHeader } from "../core/csv.js";
import { count, instant, localTime, number } from "../core/format.js";
import { at, go, useQuery } from "../core/router.js";
import { html, useEffect, useState } from "../core/view.js";
import { channelName } from "../core/words.js";
import { Button, Empty, Loaded, Page, Problem } from "../parts/basics.js";
import { Field } from "../parts/form.js";
import { Preview, usePreview } from "../parts/mail.js";
import { Table } from "../parts/table.js";
import { toast } from "../parts/toasts.js";

const HEAD_BYTES = 256 * 1024;
const WHOLE_BYTES = 16 * 1024 * 1024;
const IGNORED = "";
const SAMPLES = 3;

/** Read as much of a file as is needed to show it: its columns, some rows, and all rows of a file that is not huge. */
async function openFile(file) {
  const isWhole = file.size <= WHOLE_BYTES;
  const bytes = new Uint8Array(await file.slice(0, isWhole ? file.size : HEAD_BYTES).arrayBuffer());
  const start = new TextDecoder(encodingOf(bytes)).decode(bytes.subarray(0, 1024));
  return start.trimStart().startsWith("{") ? openLines(file, bytes, isWhole) : readCsv(file, bytes, isWhole);
}

/** Read NDJSON: its first line is the blast, unless it is a recipient already. `start` is where recipients begin, in bytes. */
function openLines(file, bytes, isWhole) {
  const lines = new TextDecoder().decode(bytes).split("\n").filter((line) => line.trim());
  const parsed = lines.slice(0, isWhole ? lines.length : -1).map((line) => {
    try {
      return JSON.parse(line);
    } catch {
      return {};
    }
  });
  const isHead = parsed.length > 0 && !("email" in parsed[0] || "phone" in parsed[0]);
  const first = bytes.indexOf(0x7b);
  const end = bytes.indexOf(0x0a, first) + 1;
  return { file, kind: "ndjson", columns: [], head: isHead ? parsed[0] : {}, start: isHead ? end || bytes.length : first, rows: isHead ? parsed.slice(1) : parsed, isWhole };
}

const wantedOf = (requirements, channels) => {
  const addresses = [...new Set(channels.map((name) => requirements.addresses[name]))];
  const own = new Set(["name", "reference", ...addresses]);
  return { addresses, own, variables: requirements.variables.filter((one) => !own.has(one.name)) };
};

/** Guess which column is which: by the same name, whatever its case and marks. */
function guess(columns, names) {
  const taken = new Set();
  return columns.map((column) => {
    const found = names.find((name) => plainName(name) === plainName(column) && !taken.has(name));
    if (found) taken.add(found);
    return found || IGNORED;
  });
}

/** Return the names of the header row as it is sent; a column that is left out gets a name that nothing uses. */
const headerNames = (mapping) => mapping.map((name, place) => name || `left out: ${place + 1}`);

function recipientOf(opened, mapping, row) {
  if (opened.kind === "ndjson") return row;
  const found = { variables: {} };
  mapping.forEach((name, place) => {
    if (!name || row[place] === undefined) return;
    if (["name", "email", "phone", "reference"].includes(name)) found[name] = row[place];
    else found.variables[name] = row[place];
  });
  return found;
}

const termsOf = (plan) => ({
  templateId: plan.template, channels: plan.channels, reference: plan.reference.trim(), validation: "permissive",
  scheduledAt: instant(plan.scheduledAt) || undefined,
  priority: plan.priority ? Number(plan.priority) : undefined,
  globalVariables: Object.keys(plan.globals).length ? plan.globals : undefined,
});

/** Return the plan that a file brings; it has only text where the fields do. */
const planOf = (head, template) => ({
  template: template || String(head.templateId || ""), channels: [], reference: String(head.reference || ""),
  scheduledAt: localTime(head.scheduledAt), priority: String(head.priority ?? ""), globals: {},
});

/** Make the request of a blast; the file is sent as it is, but for its header row or first line. */
async function submit(opened, mapping, plan, dryRun, key) {
  await mustBeSame(opened.file);
  const terms = { ...termsOf(plan), dryRun };
  const headers = key ? { "Idempotency-Key": key } : {};
  if (opened.kind === "ndjson") {
    const body = new Blob([JSON.stringify({ ...opened.head, ...terms }), "\n", opened.file.slice(opened.start)]);
    return call("POST", "/api/messages/blast", body, { headers: { ...headers, "Content-Type": "application/x-ndjson" } });
  }
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(terms)) {
    if (value !== "" && value !== undefined) query.set(name, Array.isArray(value) ? value.join(",") : typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  const body = await withHeader(opened, headerNames(mapping));
  return call("POST", `/api/messages/blast?${query}`, body, { headers: { ...headers, "Content-Type": "text/csv" } });
}

/** Return a key that no other request has; `crypto.randomUUID` is missing where the page came by plain http. */
const randomKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (one) => one.toString(16).padStart(2, "0")).join("");

function Choose({ onFile, problem }) {
  const [over, setOver] = useState(false);
  const take = (file) => file && onFile(file);
  return html`<section class="card"><h2>1. Recipients</h2><div class="drop ${over ? "over" : ""}" onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)}
      onDrop=${(event) => { event.preventDefault(); setOver(false); take(event.dataTransfer.files[0]); }}>
      <label for="recipients">A CSV or NDJSON file</label><input id="recipients" type="file" accept=".csv,.tsv,.txt,.ndjson,.jsonl" onChange=${(event) => take(event.target.files[0])} />
      <p class="hint">Choose it or drop it here. A CSV file has a header row, then a row for each recipient.</p></div><${Problem} problem=${problem} /></section>`;
}

function What({ templates, plan, set, template }) {
  const channel = (name) => (on) => set("channels")(on ? [...plan.channels, name] : plan.channels.filter((one) => one !== name));
  const options = [["", "choose a template"], ...templates.map((one) => [one.id, `${one.name} (${one.id})`])];
  return html`<section class="card"><h2>2. Message</h2><div class="fields">
    <${Field} label="Template" value=${plan.template} onInput=${set("template")} options=${options} />
    ${template && html`<fieldset class="choices"><legend>Channels</legend>${template.channels.map((name) => html`<${Field} key=${name} kind="check" label=${channelName(name)} value=${plan.channels.includes(name)} onInput=${channel(name)} />`)}</fieldset>`}
    <${Field} label="Reference" value=${plan.reference} onInput=${set("reference")} maxlength="200" hint="Your own name for this blast." />
    <${Field} label="Send at" kind="datetime-local" value=${plan.scheduledAt} onInput=${set("scheduledAt")} hint="Empty: now." />
    <${Field} label="Priority" value=${plan.priority} onInput=${set("priority")} options=${[["", "as usual"], ["0", "first"], ["1", "normal"], ["2", "bulk"]]} /></div></section>`;
}

function Mapping({ opened, mapping, setMapping, needs, plan, set }) {
  const names = [["", "left out"], ["name", "name"], ...needs.addresses.map((one) => [one, one]), ["reference", "reference"], ...needs.variables.map((one) => [one.name, `${one.name}${one.required && one.default == null ? " (required)" : ""}`])];
  const rows = opened.columns.map((column, place) => ({ column, place }));
  const change = (place) => (name) => setMapping(mapping.map((one, index) => (index === place ? name : one === name ? IGNORED : one)));
  const missing = needs.variables.filter((one) => !mapping.includes(one.name));
  const addresses = needs.addresses.filter((one) => !mapping.includes(one));
  const columns = [
    { name: "Column of the file", kind: "words", cell: (row) => html`<bdi>${row.column || `column ${row.place + 1}`}</bdi>` },
    { name: "is", cell: (row) => html`<select aria-label=${`What the column ${row.column} is`} value=${mapping[row.place]} onChange=${(event) => change(row.place)(event.target.value)}>${names.map(([value, text]) => html`<option value=${value} selected=${value === mapping[row.place]}>${text}</option>`)}</select>` },
    { name: "First values", kind: "words", cell: (row) => html`<bdi class="faint">${opened.rows.slice(0, SAMPLES).map((one) => (one[row.place] ?? "").slice(0, 80)).filter(Boolean).join(", ") || "empty"}</bdi>` },
  ];
  const setGlobal = (name) => (value) => set("globals")(Object.fromEntries(Object.entries({ ...plan.globals, [name]: value }).filter(([, one]) => one !== "")));
  return html`<section class="card flush"><div class="card-head"><h2>3. Columns</h2><span class="faint">${opened.isWhole ? count(opened.rows.length, "row") : "a large file"}</span></div>
    ${addresses.map((one) => html`<p class="wait bad" key=${one}><strong>No column is the ${one}.</strong> Choose it below.</p>`)}
    <${Table} caption="Columns of the file" columns=${columns} rows=${rows} id=${(row) => row.place} />
    ${missing.length > 0 && html`<div class="filters">${missing.map((one) => html`<${Field} key=${one.name} label=${`${one.name}, the same for all`} value=${plan.globals[one.name] || ""} onInput=${setGlobal(one.name)} placeholder=${one.default != null ? `default: ${one.default}` : ""} hint=${one.description} />`)}</div>`}</section>`;
}

/** The problems by row, as {row, name, problems}. */
function problemRows(errors, opened, mapping) {
  const byRow = new Map();
  for (const one of errors) {
    const found = /^recipients\[(\d+)\]\.?(.*)$/.exec(one.field);
    const key = found ? Number(found[1]) : -1;
    byRow.set(key, [...(byRow.get(key) || []), { ...one, field: found ? found[2].replace("variables.", "") : one.field }]);
  }
  return [...byRow].sort((a, b) => a[0] - b[0]).map(([row, problems]) => ({ row, problems, recipient: opened.rows[row] ? recipientOf(opened, mapping, opened.rows[row]) : null }));
}

const valueOf = (recipient, field) => (recipient ? recipient[field] ?? recipient.variables?.[field] : undefined);

const PROBLEMS = [
  { name: "Row", cell: ({ row }) => (row < 0 ? "all" : number(row + 1)) },
  { name: "Recipient", kind: "words", cell: ({ recipient }) => html`<bdi>${recipient?.name || recipient?.email || recipient?.phone || "–"}</bdi>` },
  { name: "Problem", kind: "words", cell: ({ problems, recipient }) => problems.map((one) => html`<p key=${one.field}><strong>${one.field || "row"}</strong>${valueOf(recipient, one.field) !== undefined && html` <code>${String(valueOf(recipient, one.field))}</code>`} ${one.message}</p>`) },
];

function Checked({ found, opened, mapping, send, busy }) {
  const good = found.totalRecipients;
  const bad = found.rejectedRecipients || 0;
  const rows = problemRows(found.errors || [], opened, mapping);
  const warnings = (found.warnings || []).filter((one) => !/left out:/.test(one.field + one.message));
  return html`<section class="card flush" aria-label="Result of the check"><div class="card-head"><h2>5. Send</h2></div>
    <div class="summary-line" role="status"><p><strong>${count(good, "recipient")}</strong> can be sent to, in ${count(found.totalMessages, "message")}. ${bad > 0 && html`<strong class="bad-text">${count(bad, "row")} cannot.</strong>`}
      ${found.duplicates > 0 && html` ${count(found.duplicates, "duplicate")} left out.`}
      ${rows.length > bad && " A row with a problem on one channel is sent on the others."}</p>
      <${Button} kind="main" disabled=${!good} onClick=${send}>${bad ? `Send to ${number(good)}, leave out ${number(bad)}` : `Send to ${number(good)}`}<//></div>
    ${warnings.map((one) => html`<p class="wait warn">${one.message}</p>`)}
    ${rows.length > 0 && html`<${Table} caption="Rows with problems" columns=${PROBLEMS} rows=${rows} id=${({ row }) => row} dim=${busy} />`}
    ${rows.length >= 100 && html`<p class="faint pager">The first 100 problems are shown.</p>`}</section>`;
}

function Look({ opened, mapping, plan, template }) {
  const [row, setRow] = useState("1");
  const [channel, setChannel] = useState(plan.channels[0]);
  const chosen = plan.channels.includes(channel) ? channel : plan.channels[0];
  const recipient = opened.rows[Number(row) - 1] && recipientOf(opened, mapping, opened.rows[Number(row) - 1]);
  const { preview, problem } = usePreview(recipient && chosen && JSON.stringify({ templateId: plan.template, channel: chosen, recipient, globalVariables: plan.globals }));
  return html`<section class="card stack preview"><div class="card-head"><h2>Preview</h2></div>
    <div class="fields"><${Field} label="Row" kind="number" min="1" max=${opened.rows.length} value=${row} onInput=${setRow} />
      ${plan.channels.length > 1 && html`<${Field} label="Channel" value=${chosen} onInput=${setChannel} options=${plan.channels.map((name) => [name, channelName(name)])} />`}</div>
    ${!recipient && html`<p class="faint">There is no row ${row}.</p>`}<${Problem} problem=${problem} />
    ${preview && !problem && html`<${Preview} preview=${preview} name=${template.whatsapp?.templateName} />`}</section>`;
}

function Prepared({ templates, opened, setOpened }) {
  const [query] = useQuery();
  const head = opened.head || {};
  const [plan, setPlan] = useState(planOf(head, query.template));
  const [mapping, setMapping] = useState([]);
  const [found, setFound] = useState(null);
  const [problem, setProblem] = useState(null);
  const template = templates.find((one) => one.id === plan.template);
  const requirements = useData(template ? `/api/templates/${template.id}/requirements` : null);
  const needed = requirements.data?.requirements;
  const needs = needed && needed.templateId === template?.id ? wantedOf(needed, template.channels) : null;
  // the answer of a check that began before a change is about something else than what would be sent
  const begin = useTurns();
  const forget = () => { setFound(null); return begin(); };
  const set = (name) => (value) => { forget(); setPlan((now) => ({ ...now, [name]: value })); };
  useEffect(() => {
    forget();
    const own = template?.id === head.templateId;
    const channels = (template?.channels || []).filter((one) => !own || !head.channels || head.channels.includes(one));
    setPlan((now) => ({ ...now, channels, globals: (own && head.globalVariables) || {} }));
  }, [template?.id]);
  useEffect(() => { if (needs) setMapping(guess(opened.columns, needed.columns.concat("reference"))); }, [opened, needs && needed.templateId]);
  const map = (next) => { forget(); setMapping(next); };
  const check = async () => {
    setProblem(null);
    const isLatest = forget();
    await submit(opened, mapping, plan, true).then((answer) => isLatest() && setFound({ ...answer, key: randomKey() }), (error) => isLatest() && setProblem(error));
  };
  const send = async () => {
    setProblem(null);
    try {
      const answer = await submit(opened, mapping, plan, false, found.key);
      toast(`${count(answer.totalMessages, "message")} accepted.`);
      if (location.pathname === at("/send")) go(at(`/blasts/${answer.blastId}`));
    } catch (error) {
      setProblem(error);
    }
  };
  const mapped = opened.kind === "ndjson" || mapping.length === opened.columns.length;
  const ready = template && needs && mapped && plan.channels.length > 0;
  const errors = problem?.problems?.length ? problemRows(problem.problems, opened, mapping) : [];
  return html`<div class="stack">
    <section class="card"><div class="card-head"><h2>1. Recipients</h2><div class="actions"><button type="button" onClick=${() => setOpened(null)}>Another file</button></div></div><p><bdi>${opened.file.name}</bdi>, ${opened.isWhole ? count(opened.rows.length, "row") : "a large file"}</p></section>
    <${What} templates=${templates} plan=${plan} set=${set} template=${template} />
    ${ready && html`<div class="columns wide">
      <div class="stack">${opened.kind === "csv" && html`<${Mapping} opened=${opened} mapping=${mapping} setMapping=${map} needs=${wantedOf(needed, plan.channels)} plan=${plan} set=${set} />`}
        <section class="card"><h2>4. Check</h2><p class="faint">Every row is checked as it would be sent; nothing is sent yet.</p>
          <${Button} kind=${found ? "" : "main"} onClick=${check}>Check all rows<//>
          ${problem && html`<${Problem} problem=${errors.length ? { message: problem.message } : problem} />`}</section>
        ${errors.length > 0 && html`<section class="card flush"><${Table} caption="Rows with problems" columns=${PROBLEMS} rows=${errors} id=${({ row }) => row} /></section>`}
        ${found && html`<${Checked} found=${found} opened=${opened} mapping=${mapping} send=${send} />`}</div>
      <${Look} opened=${opened} mapping=${mapping} plan=${plan} template=${template} /></div>`}
  </div>`;
}

export function Send() {
  const templates = useData("/api/templates");
  const [opened, setOpened] = useState(null);
  const [problem, setProblem] = useState(null);
  const open = (file) => { setProblem(null); openFile(file).then(setOpened, () => setProblem({ message: "This file cannot be read." })); };
  if (!can("send")) return html`<${Page} title="Send"><${Empty} title="This key may not send.">Sign in with a key that has the scope send.<//><//>`;
  return html`<${Page} title="Send"><${Loaded} of=${templates}>${({ templates: all }) => (opened
    ? html`<${Prepared} key=${opened.file.name + opened.file.size} templates=${all} opened=${opened} setOpened=${setOpened} />`
    : html`<${Choose} onFile=${open} problem=${problem} />`)}<//><//>`;
}
