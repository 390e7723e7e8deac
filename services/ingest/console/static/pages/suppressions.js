// Suppressions: addresses that get no more messages. Find, add, import and export them; lift one, or all that match.
import { call, can, mustBeSame, post, useData, useTurns } from "../core/api.js";
import { count, number } from "../core/format.js";
import { at, useFilters } from "../core/router.js";
import { html, useState } from "../core/view.js";
import { CHANNEL_NAMES, anyOf, channelName, nameOf } from "../core/words.js";
import { Badge, Button, Empty, Loaded, Page, When } from "../parts/basics.js";
import { Dialog, ask, askAfter } from "../parts/dialog.js";
import { Field, FilterField, Filters, Form, problemOf } from "../parts/form.js";
import { Pager, Table } from "../parts/table.js";
import { toast } from "../parts/toasts.js";

const SOURCES = ["api", "bounce", "complaint", "import", "opt_out", "unsubscribe"];
const SCOPES = [["all", "all messages"], ["marketing", "marketing only"]];
const FILTERS = ["channel", "address", "scope", "source", "reason"];
const CHANNELS = Object.entries(CHANNEL_NAMES);
const any = (options) => [["", "any"], ...options];

const lift = (row, reload) => ask({
  title: `Lift the suppression of ${row.address}?`,
  text: row.scope === "all" ? "Messages can be sent there again." : "Marketing can be sent there again. The recipient may have asked for none.",
  action: "Lift it",
  danger: row.source !== "api" && row.source !== "import",
  act: async () => { await call("DELETE", `/api/suppressions/${row.id}`); toast(`${row.address} is no longer suppressed.`); },
}).then(reload);

const liftAll = (wanted, reload) => askAfter(post("/api/suppressions/lift", wanted), ({ matched }) => ({
  title: `Lift ${count(matched, "suppression")}?`,
  text: "Messages can be sent to these addresses again. If another one matches by then, none is lifted.",
  action: `Lift ${number(matched)}`,
  danger: true,
  act: async () => toast(`${count((await post("/api/suppressions/lift", { ...wanted, confirm: matched })).lifted, "suppression")} lifted.`),
})).then(reload);

const columns = (reload) => [
  { name: "Address", kind: "words", cell: (row) => html`<bdi>${row.address}</bdi><span class="sub">${channelName(row.channel)}</span>` },
  { name: "Stops", cell: (row) => html`<${Badge} tone=${row.scope === "all" ? "bad" : "warn"}>${row.scope === "all" ? "all messages" : "marketing"}<//>` },
  { name: "Because", kind: "words", cell: (row) => html`${nameOf(row.source)}: <bdi>${row.reason}</bdi>${row.evidence.words && html`<span class="sub"><bdi>${row.evidence.words}</bdi></span>`}
    ${row.evidence.jobId && html`<span class="sub"><a href=${at(`/messages/${row.evidence.jobId}`)}>The message that led to it</a></span>`}${row.evidence.by && html`<span class="sub">by ${row.evidence.by}</span>`}` },
  { name: "Since", cell: (row) => html`<${When} at=${row.createdAt} />` },
  { name: "Until", cell: (row) => (row.expiresAt ? html`<${When} at=${row.expiresAt} />` : "no end") },
  { name: "Action", kind: "end", cell: (row) => can("admin") && html`<button type="button" onClick=${() => lift(row, reload)}>Lift<span class="hidden"> ${row.address}</span></button>` },
];

function Add({ close, done }) {
  const [one, setOne] = useState({ channel: "email", address: "", scope: "all", reason: "asked for it" });
  const set = (name) => (value) => setOne((now) => ({ ...now, [name]: value }));
  const act = async () => {
    await post("/api/suppressions", one);
    toast(`${one.address} is suppressed.`);
    return done;
  };
  return html`<${Dialog} title="Suppress an address" onClose=${close}><${Form} act=${act} action="Suppress it" shown=${["address", "reason"]}
    before=${html`<button type="button" onClick=${close}>Close</button>`}>${(problem) => html`<div class="fields">
      <${Field} label="Channel" value=${one.channel} onInput=${set("channel")} options=${CHANNELS} />
      <${Field} label="Stops" value=${one.scope} onInput=${set("scope")} options=${SCOPES} />
      <${Field} wide label="Address" value=${one.address} onInput=${set("address")} problem=${problemOf(problem, "address")} placeholder=${one.channel === "email" ? "siti@example.com" : "+6281234567890"} />
      <${Field} wide label="Reason" value=${one.reason} onInput=${set("reason")} problem=${problemOf(problem, "reason")} maxlength="200" /></div>`}<//><//>`;
}

function Import({ close, done }) {
  const [file, setFile] = useState(null);
  const [channel, setChannel] = useState("email");
  const [found, setFound] = useState(null);
  // the answer of a check that began before a change is about another file
  const begin = useTurns();
  const choose = (set) => (value) => { begin(); set(value); setFound(null); };
  const send = (dryRun) => mustBeSame(file).then(() => call("POST", `/api/suppressions/import?${new URLSearchParams({ channel, validation: "permissive", dryRun })}`, file, { headers: { "Content-Type": "text/csv" } }));
  const act = async () => {
    if (!found) {
      const isLatest = begin();
      const checked = await send("true");
      return isLatest() && setFound(checked);
    }
    const answer = await send("false");
    toast(`${count(answer.added, "address", "addresses")} added, ${number(answer.changed)} changed.`);
    return done;
  };
  return html`<${Dialog} title="Import suppressions" onClose=${close}><${Form} act=${act} action=${found ? "Import" : "Check the file"} disabled=${!file}
    before=${html`<button type="button" onClick=${close}>Close</button>`}>${() => html`<div class="fields">
      <div class="field wide"><label for="import-file">CSV file</label><input id="import-file" type="file" accept=".csv,text/csv" onChange=${(event) => choose(setFile)(event.target.files[0] || null)} />
        <p class="hint">A header row, then a row for each address: <code>email</code>, <code>phone</code> or <code>address</code>, and perhaps <code>reason</code>, <code>scope</code>, <code>source</code>, <code>expiresAt</code>.</p></div>
      <${Field} label="Channel of rows that name none" value=${channel} onInput=${choose(setChannel)} options=${CHANNELS} /></div>
      ${found && html`<div role="status"><p>${count(found.total, "address", "addresses")} can be imported, ${count(found.rejected, "row")} cannot be read.</p>
        ${found.errors?.length > 0 && html`<ul>${found.errors.slice(0, 10).map((one) => html`<li><code>${one.field}</code> ${one.message}</li>`)}</ul>`}</div>`}`}<//><//>`;
}

export function Suppressions() {
  const { query, wanted, filtered, page, set } = useFilters(FILTERS);
  const [open, setOpen] = useState("");
  const found = useData(`/api/suppressions?${page}`);
  const done = () => { setOpen(""); found.reload(); };
  const close = () => setOpen("");
  return html`<${Page} title="Suppressions" actions=${html`
      ${can("admin") && html`<button type="button" class="main" onClick=${() => setOpen("add")}>Suppress an address</button><button type="button" onClick=${() => setOpen("import")}>Import</button>`}
      <a class="button" download="suppressions.csv" href=${`/api/suppressions?${new URLSearchParams({ ...wanted, format: "csv" })}`}>Export CSV</a>`}>
    <section class="card flush"><${Filters} label="Suppressions">
        <${FilterField} label="Address" value=${query.address} onInput=${set("address")} placeholder="a part of it" />
        <${Field} label="Channel" value=${query.channel || ""} onInput=${set("channel")} options=${any(CHANNELS)} />
        <${Field} label="Stops" value=${query.scope || ""} onInput=${set("scope")} options=${any(SCOPES)} />
        <${Field} label="Source" value=${query.source || ""} onInput=${set("source")} options=${anyOf(SOURCES)} />
        <${FilterField} label="Reason" value=${query.reason} onInput=${set("reason")} />
        ${filtered && can("admin") && html`<${Button} onClick=${() => liftAll(wanted, found.reload)}>Lift all that match<//>`}
      <//>
      <${Loaded} of=${found}>${(answer) => html`<${Table} caption="Suppressions" columns=${columns(found.reload)} rows=${answer.suppressions} id=${(row) => row.id}
        empty=${html`<${Empty} title=${filtered ? "No suppression matches." : "Nobody is suppressed."}>${filtered ? "" : "Hard bounces, complaints and opt-outs appear here by themselves."}<//>`} />
        <${Pager} next=${answer.nextCursor} shown=${answer.suppressions.length} />`}<//></section>
    ${open === "add" && html`<${Add} close=${close} done=${done} />`}${open === "import" && html`<${Import} close=${close} done=${done} />`}<//>`;
}
