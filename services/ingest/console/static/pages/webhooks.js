// Webhooks: endpoints that get events. Add, change, test, replay, rotate and remove them; see what they were sent.
import { call, can, post, useData } from "../core/api.js";
import { count, instant, milliseconds, number } from "../core/format.js";
import { at, go, useFilters } from "../core/router.js";
import { html, useState } from "../core/view.js";
import { CHANNEL_NAMES, anyOf, channelName } from "../core/words.js";
import { Badge, Button, Empty, Fact, Loaded, Page, StateBadge, When } from "../parts/basics.js";
import { Dialog, ask } from "../parts/dialog.js";
import { Field, Filters, Form, problemOf } from "../parts/form.js";
import { Pager, Table } from "../parts/table.js";
import { attempt, toast } from "../parts/toasts.js";

const EVENTS = [
  "message.sent", "message.failed", "message.delivered", "message.read", "message.bounced", "message.undelivered",
  "message.complained", "message.suppressed", "message.expired", "message.cancelled", "blast.completed",
  "blast.paused", "blast.incomplete", "channel.paused", "channel.resumed", "suppression.added", "webhook.disabled",
];
const STATUSES = ["waiting", "retrying", "delivered", "failed"];
const state = (one) => (!one.enabled ? ["disabled", "bad"] : one.failingSince ? ["failing", "warn"] : ["enabled", "ok"]);
const State = ({ of }) => html`<${Badge} tone=${state(of)[1]}>${state(of)[0]}<//>`;

function Secret({ secret, close }) {
  return html`<${Dialog} title="The secret" onClose=${close}><p>It signs the requests to this webhook. It is shown only now: keep it where your receiver finds it.</p>
    <pre tabindex="0">${secret}</pre><div class="dialog-end">${navigator.clipboard && html`<${Button} onClick=${() => attempt(() => navigator.clipboard.writeText(secret), "The secret is copied.")}>Copy<//>`}
    <button type="button" class="main" onClick=${close}>I have kept it</button></div><//>`;
}

function Edit({ webhook, close, done }) {
  const [one, setOne] = useState({ url: "", events: ["*"], channels: [], reference: "", description: "", ...webhook });
  const every = one.events.includes("*");
  const set = (name) => (value) => setOne((now) => ({ ...now, [name]: value }));
  const flip = (name, value) => (on) => setOne((now) => ({ ...now, [name]: on ? [...now[name], value] : now[name].filter((each) => each !== value) }));
  const act = async () => {
    const { url, events, channels, reference, description } = one;
    const body = { url: url.trim(), events, channels, reference, description };
    done(webhook ? await call("PATCH", `/api/webhooks/${webhook.id}`, body) : await post("/api/webhooks", body));
  };
  return html`<${Dialog} title=${webhook ? "Change this webhook" : "Add a webhook"} onClose=${close}><${Form} act=${act} action=${webhook ? "Change" : "Add"} shown=${["url", "events", "reference"]}
    before=${html`<button type="button" onClick=${close}>Close</button>`}>${(problem) => html`<div class="fields">
      <${Field} wide label="URL" kind="url" value=${one.url} onInput=${set("url")} problem=${problemOf(problem, "url")} placeholder="https://example.com/kurir" />
      <fieldset class="wide choices"><legend>Events</legend><${Field} kind="check" label="all events" value=${every} onInput=${(on) => set("events")(on ? ["*"] : ["message.failed"])} />
        ${!every && EVENTS.map((name) => html`<${Field} key=${name} kind="check" label=${name} value=${one.events.includes(name)} onInput=${flip("events", name)} />`)}
        ${problemOf(problem, "events") && html`<p class="field-problem">${problemOf(problem, "events")}</p>`}</fieldset>
      <fieldset class="wide choices"><legend>Channels (none: all)</legend>${Object.keys(CHANNEL_NAMES).map((name) => html`<${Field} key=${name} kind="check" label=${channelName(name)} value=${one.channels.includes(name)} onInput=${flip("channels", name)} />`)}</fieldset>
      <${Field} label="Only with this reference" value=${one.reference} onInput=${set("reference")} problem=${problemOf(problem, "reference")} />
      <${Field} label="Description" value=${one.description} onInput=${set("description")} /></div>`}<//><//>`;
}

const COLUMNS = [
  { name: "Webhook", kind: "words", cell: (row) => html`<a href=${at(`/webhooks/${row.id}`)}>${row.description || row.url}</a><span class="sub">${row.description ? row.url : row.id}</span>` },
  { name: "State", cell: (row) => html`<${State} of=${row} />${row.disabledReason && html`<span class="sub">${row.disabledReason}</span>`}` },
  { name: "Events", kind: "words", cell: (row) => (row.events.includes("*") ? "all" : row.events.join(", ")) },
  { name: "Waiting", kind: "num", cell: (row) => number(row.waiting) },
  { name: "Last delivered", cell: (row) => html`<${When} at=${row.lastDeliveredAt} />` },
];

export function Webhooks() {
  const found = useData("/api/webhooks", { every: 10 });
  const [adding, setAdding] = useState(false);
  const [secret, setSecret] = useState("");
  const added = (answer) => { setAdding(false); setSecret(answer.secret); found.reload(); };
  return html`<${Page} title="Webhooks" actions=${can("admin") && html`<button type="button" class="main" onClick=${() => setAdding(true)}>Add a webhook</button>`}>
    <section class="card flush"><${Loaded} of=${found}>${({ webhooks }) => html`<${Table} caption="Webhooks" columns=${COLUMNS} rows=${webhooks} id=${(row) => row.id}
      empty=${html`<${Empty} title="No webhook yet.">Add one, and your own system hears of every message that is sent, read or bounced.<//>`} />`}<//></section>
    ${adding && html`<${Edit} close=${() => setAdding(false)} done=${added} />`}${secret && html`<${Secret} secret=${secret} close=${() => setSecret("")} />`}<//>`;
}

const DELIVERIES = [
  { name: "Event", cell: (row) => html`${row.type === "batch" ? `batch of ${number(row.events)}` : row.type}<span class="sub"><code>${row.id}</code></span>` },
  { name: "Status", cell: (row) => html`<${StateBadge} state=${row.status} />` },
  { name: "Answer", kind: "words", cell: (row) => html`${row.responseStatus || "–"}${row.error && html`<span class="sub"><bdi>${row.error}</bdi></span>`}` },
  { name: "Attempts", kind: "num", cell: (row) => number(row.attempts) },
  { name: "Took", kind: "num", cell: (row) => milliseconds(row.durationMs) },
  { name: "Created", cell: (row) => html`<${When} at=${row.createdAt} />` },
  { name: "Next attempt", cell: (row) => (row.nextAttemptAt ? html`<${When} at=${row.nextAttemptAt} />` : "–") },
];

function Replay({ path, close, done }) {
  const [from, setFrom] = useState("");
  const [to, setTo] = useState("");
  const act = async () => {
    const body = { from: instant(from), ...(to ? { to: instant(to) } : {}) };
    toast(`${count((await post(`${path}/replay`, body)).events, "event")} will be sent again.`);
    return done;
  };
  return html`<${Dialog} title="Send events again" onClose=${close}><p>Each event keeps its id, so a receiver that knows it can leave it out.</p>
    <${Form} act=${act} action="Send again" disabled=${!from} shown=${["from", "to"]} before=${html`<button type="button" onClick=${close}>Close</button>`}>${(problem) => html`<div class="fields">
      <${Field} label="From" kind="datetime-local" value=${from} onInput=${setFrom} problem=${problemOf(problem, "from")} />
      <${Field} label="To (empty: now)" kind="datetime-local" value=${to} onInput=${setTo} problem=${problemOf(problem, "to")} /></div>`}<//><//>`;
}

function Actions({ webhook, path, reload, show }) {
  if (!can("admin")) return null;
  const patch = (body, text) => attempt(() => call("PATCH", path, body), text).then(reload);
  const rotate = () => ask({
    title: "Replace the secret?", text: "For 24 hours requests are signed with the old and the new one.", action: "Replace it",
    act: async () => show("secret", (await post(`${path}/rotate`)).secret),
  });
  const remove = () => ask({
    title: "Remove this webhook?", text: "Events that it was not sent yet are lost.", action: "Remove it", danger: true,
    act: async () => { await call("DELETE", path); toast("The webhook is removed."); go(at("/webhooks")); },
  });
  return html`<${Button} onClick=${() => attempt(() => post(`${path}/test`), "A test event is on its way.").then(reload)} disabled=${!webhook.enabled}>Send a test<//>
    <button type="button" onClick=${() => show("edit", true)}>Change</button>
    ${webhook.enabled ? html`<${Button} onClick=${() => patch({ enabled: false }, "The webhook is disabled; events are kept.")}>Disable<//>` : html`<${Button} kind="main" onClick=${() => patch({ enabled: true }, "The webhook is enabled; what happened meanwhile is sent now.")}>Enable<//>`}
    <button type="button" onClick=${() => show("replay", true)}>Replay</button><button type="button" onClick=${rotate}>Replace the secret</button><button type="button" class="danger" onClick=${remove}>Remove</button>`;
}

function Deliveries({ path }) {
  const { query, page, set } = useFilters(["status"]);
  const found = useData(`${path}/deliveries?${page}`, { every: query.cursor ? 0 : 5 });
  return html`<section class="card flush"><div class="card-head"><h2>Deliveries</h2></div>
    <${Filters} label="Deliveries"><${Field} label="Status" value=${query.status || ""} onInput=${set("status")} options=${anyOf(STATUSES)} /><//>
    <${Loaded} of=${found}>${(answer) => html`<${Table} caption="Deliveries, the latest first" columns=${DELIVERIES} rows=${answer.deliveries} id=${(row) => row.id}
      empty=${html`<${Empty} title=${query.status ? "No delivery matches." : "Nothing was sent to it yet."} />`} /><${Pager} next=${answer.nextCursor} shown=${answer.deliveries.length} />`}<//></section>`;
}

export function Webhook({ id }) {
  const path = `/api/webhooks/${encodeURIComponent(id)}`;
  const found = useData(path, { every: 5 });
  const [open, setOpen] = useState({});
  const show = (name, value) => setOpen({ [name]: value });
  const close = () => setOpen({});
  const done = () => { close(); found.reload(); };
  if (!found.data && found.problem) return html`<${Page} title="Webhook"><${Loaded} of=${found} /><//>`;
  return html`<${Loaded} of=${found}>${({ webhook }) => html`<${Page} label="Webhook" title=${html`<bdi>${webhook.description || webhook.url}</bdi> <${State} of=${webhook} />`} actions=${html`<${Actions} webhook=${webhook} path=${path} reload=${found.reload} show=${show} />`}>
    <div class="stack"><section class="card stack">${webhook.disabledReason && html`<p class="wait bad"><strong>Disabled: ${webhook.disabledReason}.</strong> Events are kept and sent when it is enabled again.</p>`}
      <dl class="facts"><${Fact} name="URL"><code>${webhook.url}</code><//><${Fact} name="Events">${webhook.events.includes("*") ? "all" : webhook.events.join(", ")}<//>
        <${Fact} name="Channels">${webhook.channels.length ? webhook.channels.map(channelName).join(", ") : "all"}<//>${webhook.reference && html`<${Fact} name="Only with reference">${webhook.reference}<//>`}
        <${Fact} name="Waiting">${count(webhook.waiting, "event")}<//><${Fact} name="Last delivered"><${When} at=${webhook.lastDeliveredAt} /><//>
        ${webhook.failingSince && html`<${Fact} name="Failing since"><${When} at=${webhook.failingSince} /><//>`}<${Fact} name="Added"><${When} at=${webhook.createdAt} /><//></dl></section>
      <${Deliveries} path=${path} /></div>
    ${open.edit && html`<${Edit} webhook=${webhook} close=${close} done=${done} />`}${open.replay && html`<${Replay} path=${path} close=${close} done=${done} />`}${open.secret && html`<${Secret} secret=${open.secret} close=${close} />`}<//>`}<//>`;
}
