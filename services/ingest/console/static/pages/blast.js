// One blast: how far it is, why it waits, what failed and why, and what can be done about it.
import { can, post, useData } from "../core/api.js";
import { count, duration, number, percent, rate } from "../core/format.js";
import { newer, useLive } from "../core/live.js";
import { at } from "../core/router.js";
import { html } from "../core/view.js";
import { DELIVERIES, STATUSES, channelName, nameOf, reasonOf } from "../core/words.js";
import { Button, Empty, Fact, Figure, Loaded, Page, Progress, StateBadge, Wait, When } from "../parts/basics.js";
import { ask } from "../parts/dialog.js";
import { Table } from "../parts/table.js";
import { attempt, toast } from "../parts/toasts.js";

const retried = ({ reopened, skipped }) =>
  `${count(reopened, "message")} will be sent again.${skipped ? ` ${count(skipped, "message")} left out: they may have been delivered.` : ""}`;

async function retry(blast, group, reload) {
  const path = `/api/blasts/${blast.blastId}/retry-failed`;
  const body = group ? { channel: group.channel, errorClass: group.errorClass, errorCode: group.errorCode } : {};
  const uncertain = group?.errorClass === "uncertain";
  await ask({
    title: group ? `Send ${count(group.count, "message")} again?` : `Send all ${number(blast.counts.failed)} failed messages again?`,
    text: uncertain
      ? "Nobody knows whether these were delivered: the provider did not answer. Sending them again may deliver them twice."
      : "Messages that may have been delivered already are left out.",
    action: "Send again",
    danger: uncertain,
    act: async () => toast(retried(await post(path, { ...body, includeUncertain: uncertain }))),
  });
  reload();
}

function Actions({ blast, reload }) {
  if (!can("send")) return null;
  const path = `/api/blasts/${blast.blastId}`;
  const paused = blast.state === "paused";
  const over = Boolean(blast.endedAt) || blast.state === "cancelled";
  const pause = () => ask({
    title: "Pause this blast?",
    text: "Messages that are being sent are finished; the others wait until it is resumed.",
    action: "Pause",
    field: { label: "Reason", value: "paused in the console" },
    act: (reason) => post(`${path}/pause`, { reason }),
  }).then(reload);
  const cancel = () => ask({
    title: "Cancel this blast?",
    text: `Its ${number(waiting(blast))} waiting messages will not be sent. This cannot be undone.`,
    action: "Cancel the blast",
    danger: true,
    act: async () => { await post(`${path}/cancel`); toast("The blast is cancelled."); },
  }).then(reload);
  const resume = () => attempt(() => post(`${path}/resume`), "The blast is resumed.").then(reload);
  // with keys, or one button may become another between a person's look and the click
  return html`
    ${!over && html`<${Button} key="pause" kind=${paused ? "main" : ""} onClick=${paused ? resume : pause}>${paused ? "Resume" : "Pause"}<//>`}
    ${!over && html`<button type="button" key="cancel" class="danger" onClick=${cancel}>Cancel</button>`}
    ${blast.counts.failed > 0 && blast.state !== "cancelled" && html`<button type="button" key="retry" onClick=${() => retry(blast, null, reload)}>Send the failed again</button>`}`;
}

const waiting = ({ counts }) => (counts.queued || 0) + (counts.scheduled || 0) + (counts.retrying || 0);

const channelColumns = (blast) => [
  { name: "Channel", cell: ([name, one]) => html`${channelName(name)}${one.waitingFor && html`<${Wait} reason=${one.waitingFor} scheduledAt=${blast.scheduledAt} />`}` },
  ...STATUSES.filter((status) => blast.counts[status]).map((status) => ({
    name: nameOf(status), kind: "num",
    cell: ([name, one]) => (one.counts[status] ? html`<a href=${at("/messages", { blast: blast.blastId, channel: name, status })}>${number(one.counts[status])}</a>` : "0"),
  })),
  ...DELIVERIES.filter((kind) => blast.delivery?.[kind]).map((kind) => ({
    name: nameOf(kind), kind: "num",
    cell: ([name, one]) => (one.delivery?.[kind] ? html`<a href=${at("/messages", { blast: blast.blastId, channel: name, delivery: kind })}>${number(one.delivery[kind])}</a>` : "0"),
  })),
];

function Failures({ blast, failures, reload }) {
  const columns = [
    { name: "Reason", kind: "words", cell: (row) => html`${reasonOf(row.example) || nameOf(row.errorClass)}<span class="sub">${nameOf(row.errorClass)}${row.errorCode ? ` · ${row.errorCode}` : ""}</span>` },
    { name: "Channel", cell: (row) => channelName(row.channel) },
    { name: "Messages", kind: "num", cell: (row) => html`<a href=${at("/messages", { blast: blast.blastId, channel: row.channel, status: "failed", error_class: row.errorClass })}>${number(row.count)}</a>` },
    { name: "Action", kind: "end", cell: (row) => can("send") && blast.state !== "cancelled" && html`<button type="button" onClick=${() => retry(blast, row, reload)}>Send again<span class="hidden"> what failed with ${row.errorCode || row.errorClass}</span></button>` },
  ];
  return html`<section class="card flush"><div class="card-head"><h2>Failures by reason</h2></div>
    <${Loaded} of=${failures}>${({ failures: rows }) => html`<${Table} caption="Failures by reason" columns=${columns} rows=${rows} id=${(row) => [row.channel, row.errorClass, row.errorCode].join()}
      empty=${html`<${Empty} title="Nothing has failed." />`} />`}<//></section>`;
}

function Shown({ blast, failures, reload }) {
  const { counts, delivery, totalMessages: total } = blast;
  const ended = Math.round(blast.progress * total);
  const delivered = (delivery?.delivered || 0) + (delivery?.read || 0);
  return html`<${Page} label=${blast.reference || blast.blastId} title=${html`<bdi>${blast.reference || blast.templateName || blast.templateId}</bdi> <${StateBadge} state=${blast.state} />`}
      actions=${html`<${Actions} blast=${blast} reload=${reload} />`}>
    <div class="stack">
      <section class="card stack">
        <${Wait} reason=${blast.waitingFor} scheduledAt=${blast.scheduledAt} />
        <div class="progress-line"><${Progress} counts=${counts} total=${total} label="Progress of this blast" />
          <p class="faint">${number(ended)} of ${number(total)} ended${blast.rate ? `, ${rate(blast.rate)} a second` : ""}${blast.etaSeconds ? `, about ${duration(blast.etaSeconds)} left` : ""}.</p></div>
        <div class="figures">
          <${Figure} name="sent" value=${number(counts.sent || 0)} tone=${counts.sent ? "ok" : ""} to=${at("/messages", { blast: blast.blastId, status: "sent" })} />
          <${Figure} name="waiting" value=${number(waiting(blast))} to=${at("/messages", { blast: blast.blastId, status: "queued,scheduled,retrying" })} />
          <${Figure} name="failed" value=${number(counts.failed || 0)} tone=${counts.failed ? "bad" : ""} to=${at("/messages", { blast: blast.blastId, status: "failed" })} />
          ${counts.suppressed > 0 && html`<${Figure} name="suppressed" value=${number(counts.suppressed)} to=${at("/messages", { blast: blast.blastId, status: "suppressed" })} />`}
          ${delivery && html`<${Figure} name="delivered" value=${number(delivered)} title=${counts.sent ? `${percent(delivered / counts.sent)} of the sent` : ""} to=${at("/messages", { blast: blast.blastId, delivery: "delivered,read" })} />
            <${Figure} name="bounced" value=${number((delivery.bounced || 0) + (delivery.undelivered || 0))} tone=${delivery.bounced || delivery.undelivered ? "bad" : ""} to=${at("/messages", { blast: blast.blastId, delivery: "bounced,undelivered" })} />`}
        </div>
      </section>
      <section class="card flush"><div class="card-head"><h2>Channels</h2></div>
        <${Table} caption="Counts by channel" columns=${channelColumns(blast)} rows=${Object.entries(blast.channels)} id=${([name]) => name} /></section>
      ${counts.failed > 0 && html`<${Failures} blast=${blast} failures=${failures} reload=${reload} />`}
      <section class="card"><h2>About this blast</h2><dl class="facts">
        <${Fact} name="Id"><code>${blast.blastId}</code><//>
        <${Fact} name="Template"><code>${blast.templateId}</code> ${blast.templateName}<//>
        <${Fact} name="Recipients">${number(blast.totalRecipients)}<//>
        <${Fact} name="Priority">${["first", "normal", "bulk"][blast.priority] ?? "–"}<//>
        <${Fact} name="Created"><${When} at=${blast.createdAt} /><//>
        ${blast.scheduledAt && html`<${Fact} name="Scheduled for"><${When} at=${blast.scheduledAt} /><//>`}
        ${blast.expiresAt && html`<${Fact} name="Expires"><${When} at=${blast.expiresAt} /><//>`}
        <${Fact} name="Last progress"><${When} at=${blast.lastProgressAt} /><//>
        ${blast.endedAt && html`<${Fact} name="Ended"><${When} at=${blast.endedAt} /><//>`}
        ${Object.entries(blast.metadata).map(([name, value]) => html`<${Fact} key=${name} name=${name}>${typeof value === "string" ? value : JSON.stringify(value)}<//>`)}
      </dl><p><a href=${at("/messages", { blast: blast.blastId })}>All messages of this blast</a></p></section>
    </div><//>`;
}

export function Blast({ id }) {
  const { blasts } = useLive();
  const path = `/api/blasts/${encodeURIComponent(id)}`;
  const found = useData(path, { every: 10 });
  const failures = useData(found.data?.blast.counts.failed ? `${path}/failures` : null, { every: 10 });
  const reload = () => { found.reload(); failures.reload(); };
  if (!found.data && found.problem) return html`<${Page} title="Blast"><${Loaded} of=${found} /><//>`;
  return html`<${Loaded} of=${found}>${({ blast }) => {
    const shown = newer(blasts.get(id), blast, found.sentAt);
    return html`<${Shown} blast=${{ ...shown, delivery: shown.delivery || blast.delivery }} failures=${failures} reload=${reload} />`;
  }}<//>`;
}
