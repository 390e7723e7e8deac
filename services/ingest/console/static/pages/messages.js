// Messages: the log of all messages, filtered by its columns; the filter is in the URL.
import { can, post, useData } from "../core/api.js";
import { count, instant, localTime, number } from "../core/format.js";
import { at, useFilters } from "../core/router.js";
import { html, useRef } from "../core/view.js";
import { CHANNEL_NAMES, DELIVERIES, STATUSES, anyOf, channelName, nameOf, reasonOf } from "../core/words.js";
import { Badge, Button, Empty, Loaded, Page, StateBadge, When } from "../parts/basics.js";
import { askAfter } from "../parts/dialog.js";
import { Field, FilterField, Filters } from "../parts/form.js";
import { Pager, Table } from "../parts/table.js";
import { toast } from "../parts/toasts.js";

const FILTERS = ["recipient", "status", "channel", "delivery", "blast", "template", "reference", "error_class", "from", "to"];

export const recipientOf = (row) => (row.channel === "email" ? row.recipient_email : row.recipient_phone) || "–";

const COLUMNS = [
  { name: "Recipient", kind: "words", cell: (row) => html`<a href=${at(`/messages/${row.job_id}`)}>${recipientOf(row)}</a>${row.recipient_name && html`<span class="sub"><bdi>${row.recipient_name}</bdi></span>`}` },
  { name: "Status", cell: (row) => html`<${StateBadge} state=${row.status} />${row.delivery && html` <${StateBadge} state=${row.delivery} />`}` },
  { name: "Subject or reason", kind: "words", cell: (row) => html`<bdi>${row.subject || row.template_name}</bdi>${row.error_message && row.status !== "sent" && html`<span class="sub"><bdi>${reasonOf(row.error_message)}</bdi></span>`}` },
  { name: "Channel", cell: (row) => channelName(row.channel) },
  { name: "Attempts", kind: "num", cell: (row) => number(row.attempts) },
  { name: "Updated", cell: (row) => html`<${When} at=${row.updated_at} />` },
];

/** A select that also shows a value that it does not offer, such as several states in one link. */
function Choice({ label, value, onInput, names, name }) {
  const options = anyOf(names, name);
  if (value && !names.includes(value)) options.push([value, value.split(",").map(nameOf).join(", ")]);
  return html`<${Field} label=${label} value=${value} onInput=${onInput} options=${options} />`;
}

function Search({ query, set }) {
  const { recipient = "", status = "", channel = "", delivery = "", blast = "", template = "", reference = "", from = "", to = "", error_class: errorClass = "" } = query;
  // once open it stays, or it would hide the field in which somebody types
  const more = useRef(false);
  more.current ||= Boolean(blast || template || reference || from || to || errorClass);
  return html`<${Filters} label="Messages">
    <${FilterField} label="Recipient" value=${recipient} onInput=${set("recipient")} placeholder="address or its beginning" />
    <${Choice} label="Status" value=${status} onInput=${set("status")} names=${STATUSES} />
    <${Choice} label="Delivery" value=${delivery} onInput=${set("delivery")} names=${DELIVERIES} />
    <${Choice} label="Channel" value=${channel} onInput=${set("channel")} names=${Object.keys(CHANNEL_NAMES)} name=${channelName} />
    <details class="more wide" open=${more.current}><summary>More filters</summary><div class="fields">
      <${FilterField} label="Blast id" value=${blast} onInput=${set("blast")} />
      <${FilterField} label="Template" value=${template} onInput=${set("template")} />
      <${FilterField} label="Reference" value=${reference} onInput=${set("reference")} />
      <${FilterField} label="Kind of error" value=${errorClass} onInput=${set("error_class")} placeholder="permanent" />
      <${Field} label="From" kind="datetime-local" value=${localTime(from)} onInput=${(text) => set("from")(instant(text))} />
      <${Field} label="To" kind="datetime-local" value=${localTime(to)} onInput=${(text) => set("to")(instant(text))} />
    </div></details><//>`;
}

function Counted({ stats, filtered }) {
  const { total, complete } = stats;
  const parts = STATUSES.filter((status) => stats[status]);
  return html`<p><strong>${complete ? "" : "At least "}${number(total)}</strong> ${filtered ? "match" : "messages"} ${parts.map((status) => html`<${Badge} tone="calm">${number(stats[status])} ${nameOf(status)}<//> `)}</p>`;
}

/** Send all failed messages that the filter shows again, once their number is confirmed. */
function retryAll(wanted, reload) {
  const path = `/api/messages/retry?${new URLSearchParams(wanted)}`;
  const uncertain = wanted.error_class === "uncertain";
  return askAfter(post(path, {}), ({ matched, complete }) => (matched ? {
    title: `Send ${count(matched, "failed message")} again?`,
    text: `${complete ? "These are all that match." : "These are the latest; more match."} ${uncertain ? "Nobody knows whether they were delivered: they may arrive twice." : "Those that may have been delivered are left out."}`,
    action: `Send ${number(matched)} again`,
    danger: uncertain,
    act: async () => {
      const done = await post(path, { confirm: matched, includeUncertain: uncertain });
      toast(`${count(done.reopened, "message")} will be sent again${done.skipped ? `, ${number(done.skipped)} left out` : ""}.`);
      reload();
    },
  } : toast("No failed message matches.")));
}

export function Messages() {
  const { query, wanted, filtered, page, set, clear } = useFilters(FILTERS);
  const found = useData(`/api/logs/messages?${page}`, { every: query.cursor ? 0 : 15 });
  const counted = useData(`/api/logs/messages/stats?${new URLSearchParams(wanted)}`, { every: 15 });
  const file = (format) => `/api/logs/messages?${new URLSearchParams({ ...wanted, format, ...(format === "csv" ? { for: "spreadsheet" } : {}) })}`;
  const again = () => { found.reload(); counted.reload(); };
  return html`<${Page} title="Messages" actions=${html`<a class="button" href=${file("csv")} download="messages.csv">Export CSV</a><a class="button" href=${file("ndjson")} download="messages.ndjson">NDJSON</a>`}>
    <section class="card flush"><${Search} query=${query} set=${set} />
      <div class="summary-line" aria-live="polite">${counted.data ? html`<${Counted} stats=${counted.data.stats} filtered=${filtered} />` : html`<p class="faint">Counting …</p>`}
        <div class="actions">${can("send") && counted.data?.stats.failed > 0 && html`<${Button} onClick=${() => retryAll(wanted, again)}>Send the failed again<//>`}
          ${filtered && html`<button type="button" class="plain" onClick=${clear}>Clear the filters</button>`}</div></div>
      <${Loaded} of=${found}>${(answer) => html`
        <${Table} caption="Messages, the latest first" columns=${COLUMNS} rows=${answer.logs} id=${(row) => row.job_id}
          empty=${html`<${Empty} title=${answer.nextCursor ? "None on this page." : filtered ? "No message matches." : "No message yet."}>${answer.nextCursor ? "The search has not reached the end; go on with Older." : ""}<//>`} />
        <${Pager} next=${answer.nextCursor} shown=${answer.logs.length} />`}<//>
    </section><//>`;
}
