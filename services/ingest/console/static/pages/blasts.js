// Blasts: a list that is live, filtered by state, template and reference.
import { useData } from "../core/api.js";
import { duration, number, rate } from "../core/format.js";
import { useLive } from "../core/live.js";
import { at, useFilters } from "../core/router.js";
import { html } from "../core/view.js";
import { anyOf, channelName, waitOf } from "../core/words.js";
import { Empty, Loaded, Page, Progress, StateBadge, When } from "../parts/basics.js";
import { Field, FilterField, Filters } from "../parts/form.js";
import { Pager, Table } from "../parts/table.js";

const STATES = ["enqueueing", "scheduled", "running", "paused", "completed", "completed_with_failures", "cancelled", "incomplete"];

/** A blast's own name, or its template's, with a link to it. */
export const BlastName = ({ blast }) => html`<a href=${at(`/blasts/${blast.blastId}`)}>${blast.reference || blast.templateName || blast.templateId}</a>
  <span class="sub">${blast.reference ? blast.templateName || blast.templateId : blast.blastId}</span>`;

const COLUMNS = [
  { name: "Blast", kind: "words", cell: (row) => html`<${BlastName} blast=${row} />` },
  { name: "State", cell: (row) => html`<${StateBadge} state=${row.state} />${row.waitingFor && html`<span class="sub">${waitOf(row.waitingFor)?.text}</span>`}` },
  { name: "Progress", cell: (row) => html`<${Progress} counts=${row.counts} total=${row.totalMessages} label=${`Progress of ${row.reference || row.blastId}`} />
    <span class="sub">${number(row.counts.sent || 0)} of ${number(row.totalMessages)} sent${row.etaSeconds ? `, ${duration(row.etaSeconds)} left at ${rate(row.rate)}/s` : ""}</span>` },
  { name: "Failed", kind: "num", cell: (row) => (row.counts.failed ? html`<a href=${at("/messages", { blast: row.blastId, status: "failed" })}>${number(row.counts.failed)}</a>` : "0") },
  { name: "Channels", cell: (row) => Object.keys(row.channels).map(channelName).join(", ") },
  { name: "Created", cell: (row) => html`<${When} at=${row.createdAt} />` },
];

export function Blasts() {
  const { query, filtered, page, set, clear } = useFilters(["state", "template", "reference"]);
  const { blasts } = useLive();
  const found = useData(`/api/blasts?${page}`, { every: query.cursor ? 0 : 15 });
  return html`<${Page} title="Blasts">
    <section class="card flush">
      <${Filters} label="Blasts">
        <${Field} label="State" value=${query.state || ""} onInput=${set("state")} options=${anyOf(STATES)} />
        <${FilterField} label="Template" value=${query.template} onInput=${set("template")} placeholder="otp" />
        <${FilterField} label="Reference" value=${query.reference} onInput=${set("reference")} />
      <//>
      <${Loaded} of=${found}>${(answer) => html`
        <${Table} caption="Blasts, the latest first" columns=${COLUMNS} id=${(row) => row.blastId} dim=${found.loading && found.problem}
          rows=${answer.blasts.map((row) => blasts.get(row.blastId) || row)}
          empty=${html`<${Empty} title=${filtered ? "No blast matches." : "No blast yet."}>${filtered
            ? html`<button type="button" onClick=${clear}>Clear the filters</button>` : "Blasts appear here as soon as one is accepted."}<//>`} />
        <${Pager} next=${answer.nextCursor} shown=${answer.blasts.length} />`}<//>
    </section><//>`;
}
