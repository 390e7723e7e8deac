// One message: its whole story with the provider's own words, and what can be done about it.
import { can, post, useData } from "../core/api.js";
import { milliseconds, moment, number } from "../core/format.js";
import { at } from "../core/router.js";
import { html } from "../core/view.js";
import { channelName, nameOf, reasonOf, toneOf, waitOf } from "../core/words.js";
import { Fact, Loaded, Page, StateBadge, Wait, When } from "../parts/basics.js";
import { ask } from "../parts/dialog.js";
import { Preview } from "../parts/mail.js";
import { toast } from "../parts/toasts.js";
import { recipientOf } from "./messages.js";

function Actions({ row, reload }) {
  if (!can("send")) return null;
  const path = `/api/messages/${encodeURIComponent(row.job_id)}`;
  const uncertain = row.error_class === "uncertain";
  const retry = () => ask({
    title: "Send this message again?",
    text: uncertain ? "Nobody knows whether it was delivered: the provider did not answer. It may arrive twice." : "It starts over, with all its attempts.",
    action: "Send again",
    danger: uncertain,
    act: async () => { await post(`${path}/retry`, { includeUncertain: uncertain }); toast("The message will be sent again."); },
  }).then(reload);
  const cancel = () => ask({
    title: "Cancel this message?",
    text: "It will not be sent. This cannot be undone.",
    action: "Cancel the message",
    danger: true,
    act: async () => { await post(`${path}/cancel`); toast("The message is cancelled."); },
  }).then(reload);
  return html`${row.status === "failed" && html`<button type="button" class="main" onClick=${retry}>Send again</button>`}
    ${["queued", "scheduled", "retrying"].includes(row.status) && html`<button type="button" class="danger" onClick=${cancel}>Cancel</button>`}`;
}

/** The steps of the story: each attempt with the provider's words, each receipt, and what the timeline adds. */
function steps(row) {
  const attempts = row.history.map((one) => ({
    at: one.at,
    title: one.outcome === "sent" ? "Accepted by the provider" : one.deferral ? `Put off: attempt ${one.attempt + 1} may come later` : `Attempt ${one.attempt} ${nameOf(one.outcome)}`,
    tone: one.outcome === "sent" ? "ok" : one.outcome === "failed" ? "bad" : "warn",
    facts: [one.error_class && `${nameOf(one.error_class)}${one.error_code ? ` · ${one.error_code}` : ""}`, one.duration_ms != null && `took ${milliseconds(one.duration_ms)}`, one.next_at && `next attempt ${moment(one.next_at)}`, one.run > 1 && `run ${one.run}`],
    said: one.response || one.error_message,
    id: one.message_id,
  }));
  const receipts = row.receipts.map((one) => ({
    at: one.at,
    title: nameOf(one.kind)[0].toUpperCase() + nameOf(one.kind).slice(1),
    tone: toneOf(one.kind),
    facts: [one.severity, one.code, `reported by ${one.source}`, one.trusted === false && "not authenticated", one.address && `about ${one.address}`],
    said: one.words,
  }));
  const told = new Set(["sent", "failed", "retrying", "deferred", ...row.receipts.map((one) => one.kind)]);
  const rest = row.timeline.filter((one) => !told.has(one.event) || (one.event === "failed" && !attempts.some((step) => step.tone === "bad"))).map((one) => ({
    at: one.at, title: nameOf(one.event)[0].toUpperCase() + nameOf(one.event).slice(1), tone: toneOf(one.event), facts: [one.run > 1 && `run ${one.run}`], said: one.detail,
  }));
  return [...rest, ...attempts, ...receipts].sort((a, b) => String(a.at).localeCompare(String(b.at)));
}

function Story({ row }) {
  return html`<section class="card"><h2>What happened</h2><ol class="story">${steps(row).map((step, place) => html`<li key=${place} class=${step.tone}>
    <strong>${step.title}</strong> <span class="faint"><${When} at=${step.at} /></span>
    <span class="sub">${step.facts.filter(Boolean).join(", ")}</span>
    ${step.said && html`<p class="said" tabindex="0" role="group" aria-label="The provider’s words"><bdi>${step.said}</bdi></p>`}
    ${step.id && html`<span class="sub">provider’s id <code>${step.id}</code></span>`}</li>`)}
    ${row.waiting_for && html`<li class="warn"><strong>Now waiting</strong><span class="sub">${waitOf(row.waiting_for)?.text}</span></li>`}</ol></section>`;
}

/** What the message says, while it can be rendered. */
function Content({ row }) {
  const found = useData(`/api/messages/${encodeURIComponent(row.job_id)}/content`);
  return html`<section class="card"><h2>What it says</h2><${Loaded} of=${found}>${({ kept, content, attachments, reason }) => (kept
    ? html`<${Preview} preview=${content} name=${row.template_name} />${attachments.map((one) => html`<p class="sub">Attached: <bdi>${one.filename}</bdi>, ${number(one.size)} bytes</p>`)}`
    : html`<p>${reason}</p><p><a href=${at(`/templates/${row.template_id}`)}>Preview the template</a></p>`)}<//></section>`;
}

function Shown({ row, reload }) {
  return html`<${Page} label=${recipientOf(row)} title=${html`<bdi>${recipientOf(row)}</bdi> <${StateBadge} state=${row.status} />${row.delivery && html` <${StateBadge} state=${row.delivery.status} />`}`}
      actions=${html`<${Actions} row=${row} reload=${reload} />`}>
    <div class="stack"><${Wait} reason=${row.waiting_for} />
      <div class="columns"><${Story} row=${row} />
      <section class="card"><h2>About this message</h2><dl class="facts">
        ${row.recipient_name && html`<${Fact} name="Name"><bdi>${row.recipient_name}</bdi><//>`}
        <${Fact} name="Channel">${channelName(row.channel)}<//>
        ${row.subject && html`<${Fact} name="Subject"><bdi>${row.subject}</bdi><//>`}
        <${Fact} name="Template"><code>${row.template_id}</code> ${row.template_name}<//>
        <${Fact} name="Blast"><a href=${at(`/blasts/${row.blast_id}`)}><code>${row.blast_id}</code></a><//>
        ${row.reference && html`<${Fact} name="Reference"><bdi>${row.reference}</bdi><//>`}
        <${Fact} name="Attempts">${number(row.attempts)}${row.run > 1 ? `, in run ${row.run}` : ""}<//>
        ${row.error_message && html`<${Fact} name="Last error"><bdi>${reasonOf(row.error_message)}</bdi><//>`}
        <${Fact} name="Created">${moment(row.created_at)}<//>
        <${Fact} name="Updated">${moment(row.updated_at)}<//>
        <${Fact} name="Id"><code>${row.job_id}</code><//>
      </dl></section></div>
      <${Content} key=${row.status} row=${row} />
    </div><//>`;
}

export function Message({ id }) {
  const found = useData(`/api/messages/${encodeURIComponent(id)}`, { every: 5 });
  if (!found.data && found.problem) return html`<${Page} title="Message"><${Loaded} of=${found} /><//>`;
  return html`<${Loaded} of=${found}>${({ message }) => html`<${Shown} row=${message} reload=${found.reload} />`}<//>`;
}
