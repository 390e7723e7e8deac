// Blasts: a list that is live, filtered by state, template and reference.
import { useData } from "../core/api.js";
import { duration, number, rate } from "../core/format.js";
import { useLive } from "../core/live.js";
import { at, useQuery } from "../core/router.js";
import { html } from "../core/view.js";
import { channelName, nameOf, waitOf } from "../core/words.js";
import { Empty, Loaded, Page, Progress, StateBadge, When } from "../parts/basics.js";
import { Field, FilterField } from "../parts/form.js";
import { Pager, Table } from "../parts/table.js";

const STATES = ["enqueueing", "scheduled", "running", "paused", "completed", "completed_with_failures", "cancelled", "incomplete"];

/** A blast's own name, or its template's, with a link to it. */
export const BlastName = ({ blast }) => html`<a href=${at(`/blasts/${blast.blastId}`)}>${blast.reference || blast.templateName || blast.templateId}</a>
  <span class="sub">${blast.reference ? blast.templateName || blast.templateId : blast.blastId}</span>`;

const COLUMNS = [
  { name: "Blast", cell: (row) => html`<${BlastName} blast=${row} />` },
  { name: "State", cell: (row) => html`<${StateBadge} state=${row.state} />${row.waitingFor && html`<span class="sub">${waitOf(row.waitingFor)?.text}</span>`}` },
  { name: "Progress", cell: (row) => html`<${Progress} counts=${row.counts} total=${row.totalMessages} label=${`Progress of ${row.reference || row.blastId}`} />
    <span class="sub">${number(row.counts.sent || 0)} of ${number(row.totalMessages)} sent${row.etaSeconds ? `, ${duration(row.etaSeconds)} left at ${rate(row.rate)}/s` : ""}</span>` },
  { name: "Failed", kind: "num", cell: (row) => (row.counts.failed ? html`<a href=${at("/messages", { blast: row.blastId, status: "failed" })}>${number(row.counts.failed)}</a>` : "0") },
  { name: "Channels", cell: (row) => Object.keys(row.channels).map(channelName).join(", ") },
  { name: "Created", cell: (row) => html`<${When} at=${row.createdAt} />` },
];

export function Blasts() {
  const [query, change] = useQuery();
  const { blasts } = useLive();
  const { state = "", template = "", reference = "", cursor = "" } = query;
  const search = new URLSearchParams(Object.entries({ state, template, reference, cursor, limit: "50" }).filter(([, value]) => value));
  const found = useData(`/api/blasts?${search}`, { every: cursor ? 0 : 15 });
  const filter = (name) => (value) => change({ [name]: value, cursor: "" }, { replace: true });
  return html`<${Page} title="Blasts">
    <section class="card flush">
      <form class="filters" role="search" aria-label="Blasts" onSubmit=${(event) => event.preventDefault()}>
        <${Field} label="State" value=${state} onInput=${filter("state")} options=${[["", "any"], ...STATES.map((one) => [one, nameOf(one)])]} />
        <${FilterField} label="Template" value=${template} onInput=${filter("template")} placeholder="otp" />
        <${FilterField} label="Reference" value=${reference} onInput=${filter("reference")} />
      </form>
      <${Loaded} of=${found}>${(answer) => html`
        <${Table} caption="Blasts, the latest first" columns=${COLUMNS} id=${(row) => row.blastId} dim=${found.loading && found.problem}
          rows=${answer.blasts.map((row) => blasts.get(row.blastId) || row)}
          empty=${html`<${Empty} title=${state || template || reference ? "No blast matches." : "No blast yet."}>${state || template || reference
            ? html`<button type="button" onClick=${() => change({ state: "", template: "", reference: "", cursor: "" })}>Clear the filters</button>` : "Blasts appear here as soon as one is accepted."}<//>`} />
        <${Pager} next=${answer.nextCursor} shown=${answer.blasts.length} />`}<//>
    </section><//>`;
}
