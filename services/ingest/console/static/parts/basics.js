// Basic parts: badges, bars, times, problems and empty places.
import { ago, moment, number } from "../core/format.js";
import { makeStore, useStore } from "../core/store.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../core/view.js";
import { nameOf, toneOf, waitOf } from "../core/words.js";
import { toast } from "./toasts.js";

export const Badge = ({ tone = "calm", children }) => html`<span class="badge ${tone}">${children}</span>`;

/** A state in its colour; the word says the same as the colour. */
export const StateBadge = ({ state }) => html`<${Badge} tone=${toneOf(state)}>${nameOf(state)}<//>`;

const now = makeStore(Date.now());
setInterval(() => now.set(Date.now()), 15000);

/** A time in relation to now; the exact one shows when pointed at. */
export function When({ at }) {
  useStore(now);
  return at ? html`<time datetime=${at} title=${moment(at)}>${ago(at)}</time>` : html`<span class="faint">–</span>`;
}

const PARTS = [
  ["sent", "ok", "sent"], ["failed", "bad", "failed"], ["suppressed", "warn", "suppressed"],
  ["expired", "warn", "expired"], ["cancelled", "calm", "cancelled"], ["processing", "busy", "being sent"],
  ["retrying", "later", "waiting for another attempt"],
];

/** How far a number of messages is: one coloured part for each status that has any. */
export function Progress({ counts, total, label }) {
  const parts = PARTS.filter(([status]) => counts[status]);
  const ended = ["sent", "failed", "suppressed", "expired", "cancelled"].reduce((sum, one) => sum + (counts[one] || 0), 0);
  const share = total ? Math.floor((100 * ended) / total) : 100;
  const text = parts.map(([status, , word]) => `${number(counts[status])} ${word}`).join(", ") || "nothing sent yet";
  return html`<div class="progress" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${share} aria-valuetext=${`${share} %: ${text}`} title=${text}>
    ${parts.map(([status, tone]) => html`<i key=${status} class=${tone} style=${{ flexGrow: counts[status] }} />`)}
    <i class="rest" style=${{ flexGrow: Math.max(0, total - parts.reduce((sum, [one]) => sum + counts[one], 0)) }} />
  </div>`;
}

/** Why something waits, in one line with what to do about it. */
export function Wait({ reason, channel, scheduledAt }) {
  const wait = waitOf(reason, { channel, scheduledAt: scheduledAt && moment(scheduledAt) });
  if (!wait) return null;
  return html`<p class="wait ${wait.tone}"><strong><bdi>${wait.text}</bdi>.</strong> ${wait.hint || ""}</p>`;
}

export const Empty = ({ title, children }) => html`<div class="empty"><p><strong>${title}</strong></p>${children && html`<p>${children}</p>`}</div>`;

/** What went wrong with a call, with a way to try again. */
export function Problem({ problem, again }) {
  if (!problem) return null;
  return html`<div class="problem" role="alert">
    <p><strong>${problem.message}</strong></p>
    ${problem.problems?.length > 0 && html`<ul>${problem.problems.slice(0, 20).map((one) => html`<li><code>${one.field || "body"}</code> ${one.message}</li>`)}</ul>`}
    ${again && html`<button type="button" onClick=${again}>Try again</button>`}
  </div>`;
}

/** What a page shows of a call: its data as soon as there is any, and its problem if it has one. */
export function Loaded({ of, children }) {
  if (of.data !== undefined) return html`<${Problem} problem=${of.problem} again=${of.reload} />${children(of.data)}`;
  if (of.problem) return html`<${Problem} problem=${of.problem} again=${of.reload} />`;
  return html`<p class="faint loading" role="status">Loading …</p>`;
}

/** A button that waits for what it does, so that nobody presses it twice, and says why it failed. */
export function Button({ onClick, children, kind = "", ...more }) {
  const [busy, setBusy] = useState(false);
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const press = async (event) => {
    setBusy(true);
    try {
      await onClick(event);
    } catch (problem) {
      toast(problem.message, "bad");
    } finally {
      if (alive.current) setBusy(false);
    }
  };
  return html`<button type="button" class=${kind} aria-busy=${busy} onClick=${busy ? null : press} ...${more}>${children}</button>`;
}

/** The page's frame: its heading gets the focus when the page opens, so that a keyboard starts there. */
export function Page({ title, label, actions, children }) {
  const heading = useRef();
  useEffect(() => {
    document.title = `${label || title} · Kurir`;
  }, [label, title]);
  // before the next frame, or the focus would be taken from a person who has gone on by keyboard
  useLayoutEffect(() => {
    if (Page.opened) heading.current?.focus();
    Page.opened = true;
    scrollTo(0, 0);
  }, []);
  return html`<header class="page-head"><h1 tabindex="-1" ref=${heading}>${title}</h1>${actions && html`<div class="actions">${actions}</div>`}</header>${children}`;
}

export const Fact = ({ name, children }) => html`<div class="fact"><dt>${name}</dt><dd>${children}</dd></div>`;

/** A figure with its name; `to` makes it a link to what it counts. */
export function Figure({ name, value, tone = "", to, title }) {
  const inner = html`<span class="figure-value ${tone}">${value}</span><span class="figure-name">${name}</span>`;
  return to ? html`<a class="figure" href=${to} title=${title}>${inner}</a>` : html`<div class="figure" title=${title}>${inner}</div>`;
}
