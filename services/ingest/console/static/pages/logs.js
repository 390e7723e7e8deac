// Logs: requests to the API, and warnings and errors of the services.
import { useData } from "../core/api.js";
import { milliseconds, moment } from "../core/format.js";
import { at, useFilters, usePlace } from "../core/router.js";
import { html } from "../core/view.js";
import { anyOf } from "../core/words.js";
import { Badge, Empty, Loaded, Page, StateBadge } from "../parts/basics.js";
import { Field, FilterField, Filters } from "../parts/form.js";
import { Pager, Table } from "../parts/table.js";

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const LEVELS = ["warning", "error", "critical"];
const SERVICES = ["ingest", "email-sender", "whatsapp-sender", "webhook-sender", "logger", "receipts"];
const toneOfStatus = (status) => (status >= 500 ? "bad" : status >= 400 ? "warn" : "ok");

const REQUESTS = [
  { name: "Call", kind: "words", cell: (row) => html`<code>${row.method} ${row.endpoint}</code>${row.error_message && html`<span class="sub"><bdi>${row.error_message}</bdi></span>`}` },
  { name: "Status", cell: (row) => html`<${Badge} tone=${toneOfStatus(row.response_status)}>${row.response_status}<//>` },
  { name: "Took", kind: "num", cell: (row) => milliseconds(row.response_time_ms) },
  { name: "By", cell: (row) => html`${row.api_key || "no key"}<span class="sub">${row.ip_address}</span>` },
  { name: "Body", kind: "words", cell: (row) => row.request_body && html`<details class="more"><summary>Show</summary><pre tabindex="0">${row.request_body}</pre></details>` },
  { name: "At", cell: (row) => html`${moment(row.created_at)}<span class="sub"><code>${row.request_id}</code></span>` },
];

const pretty = (text) => {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return String(text);
  }
};

const EVENTS = [
  { name: "Event", kind: "words", cell: (row) => html`<bdi>${row.message}</bdi>` },
  { name: "Level", cell: (row) => html`<${StateBadge} state=${row.level} />` },
  { name: "Service", cell: (row) => row.service },
  { name: "Details", kind: "words", cell: (row) => row.metadata && html`<details class="more"><summary>Show</summary><pre tabindex="0">${pretty(row.metadata)}</pre></details>` },
  { name: "At", cell: (row) => moment(row.created_at) },
];

export function Logs() {
  const of = usePlace().query.of === "system" ? "system" : "api";
  const { query, page, set } = useFilters(of === "api" ? ["endpoint", "method", "status"] : ["level", "service"]);
  const found = useData(`/api/logs/${of}?${page}`, { every: query.cursor ? 0 : 15 });
  const filters = of === "api" ? html`
      <${FilterField} label="Path" value=${query.endpoint} onInput=${set("endpoint")} placeholder="/api/v1/messages" />
      <${Field} label="Method" value=${query.method || ""} onInput=${set("method")} options=${anyOf(METHODS)} />
      <${FilterField} label="Status" value=${query.status} onInput=${set("status")} placeholder="422" inputmode="numeric" />` : html`
      <${Field} label="Level" value=${query.level || ""} onInput=${set("level")} options=${anyOf(LEVELS)} />
      <${Field} label="Service" value=${query.service || ""} onInput=${set("service")} options=${anyOf(SERVICES)} />`;
  return html`<${Page} title="Logs" actions=${html`
      <a class="button" aria-current=${of === "api" ? "page" : null} href=${at("/logs")}>API calls</a>
      <a class="button" aria-current=${of === "system" ? "page" : null} href=${at("/logs", { of: "system" })}>Warnings and errors</a>`}>
    <section class="card flush"><${Filters} label="Logs">${filters}<//>
      <${Loaded} of=${found}>${(answer) => html`<${Table} caption=${of === "api" ? "API calls, the latest first" : "Warnings and errors, the latest first"} columns=${of === "api" ? REQUESTS : EVENTS} rows=${answer.logs} id=${(row) => row.id}
        empty=${html`<${Empty} title=${of === "api" ? "No call matches." : "No warning and no error."} />`} />
        <${Pager} next=${answer.nextCursor} shown=${answer.logs.length} />`}<//></section><//>`;
}
