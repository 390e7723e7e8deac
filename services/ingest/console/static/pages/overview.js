// The overview: what flows, what waits and why, and what failed last.
import { can, post, useData } from "../core/api.js";
import { bytes, count, duration, milliseconds, number, percent, rate } from "../core/format.js";
import { useLive } from "../core/live.js";
import { at } from "../core/router.js";
import { html } from "../core/view.js";
import { channelName, nameOf, reasonOf } from "../core/words.js";
import { Badge, Empty, Figure, Loaded, Page, Progress, StateBadge, Wait, When } from "../parts/basics.js";
import { Chart } from "../parts/chart.js";
import { ask } from "../parts/dialog.js";
import { Table } from "../parts/table.js";
import { attempt } from "../parts/toasts.js";
import { BlastName } from "./blasts.js";

export function pauseChannel(channel) {
  return ask({
    title: `Pause ${channelName(channel.name)}?`,
    text: "Messages that are being sent are finished; all others wait until the channel is resumed.",
    action: "Pause",
    field: { label: "Reason, shown wherever the channel is shown", value: "paused in the console" },
    act: (reason) => post(`/api/channels/${channel.name}/pause`, { reason }),
  });
}

export const resumeChannel = (channel) =>
  attempt(() => post(`/api/channels/${channel.name}/resume`), `${channelName(channel.name)} is resumed.`);

/** The buttons that change whether a channel sends. */
export function ChannelActions({ channel }) {
  if (!can("admin")) return null;
  return channel.paused
    ? html`<button type="button" class="main" onClick=${() => resumeChannel(channel)}>Resume<span class="hidden"> ${channelName(channel.name)}</span></button>`
    : html`<button type="button" onClick=${() => pauseChannel(channel)}>Pause<span class="hidden"> ${channelName(channel.name)}</span></button>`;
}

/** Why a channel's messages wait; a pause has its reason even if nothing waits. */
export const waitOfChannel = (channel) => (channel.paused ? `paused: ${channel.paused}` : channel.waitingFor);

/** In one word, what a channel does. */
export function channelState({ configured, paused, senders, stats, waitingFor, perSecond }) {
  if (!configured) return ["not configured", "calm"];
  if (paused) return ["paused", "warn"];
  if (!senders.length) return ["no sender", "bad"];
  if (!senders.some((one) => one.available)) return ["provider away", "bad"];
  if (perSecond?.sent > 0 || stats.active > 0) return ["sending", "busy"];
  return waitingFor ? ["waiting", "warn"] : ["idle", "ok"];
}

function ChannelCard({ channel, hour, history }) {
  const { stats, perSecond, oldestAgeSeconds } = channel;
  const oldest = Math.max(0, ...Object.values(oldestAgeSeconds));
  const [state, tone] = channelState(channel);
  const to = (status) => at("/messages", { channel: channel.name, status });
  const recent = history.slice(-5);
  const sent = recent.length ? recent.reduce((sum, row) => sum + row[2], 0) / recent.length : 0;
  return html`<section class="card stack" aria-labelledby=${`channel-${channel.name}`}>
    <div class="card-head"><h2 id=${`channel-${channel.name}`}>${channelName(channel.name)} <${Badge} tone=${tone}>${state}<//></h2>
      <div class="actions"><${ChannelActions} channel=${channel} /></div></div>
    <${Wait} reason=${waitOfChannel(channel)} channel=${channel} />
    <div class="figures">
      <${Figure} name="sent/second" value=${rate(sent)} title=${`now: ${rate(perSecond.sent)}`} />
      <${Figure} name="waiting" value=${number(stats.waiting)} to=${to("queued")} />
      <${Figure} name="being sent" value=${number(stats.active)} to=${to("processing")} />
      <${Figure} name="retrying" value=${number(stats.delayed)} to=${to("retrying")} tone=${stats.delayed ? "warn" : ""} />
      <${Figure} name="scheduled" value=${number(stats.scheduled)} to=${to("scheduled")} />
    </div>
    <p class="faint">${[
      stats.waiting > 0 && `The oldest has waited ${duration(oldest)}.`,
      hour ? `Last hour: ${number(hour.sent)} sent${hour.sent + hour.failed ? `, ${percent(hour.successRate)} of the ended` : ""}${hour.failed ? `, ${number(hour.failed)} failed` : ""}, ${milliseconds(hour.averageSendMs)} on average.` : "Nothing was sent in the last hour.",
      `${count(channel.senders.length, "sender")}${channel.rate && channel.rate !== "off" ? `, limit ${channel.rate}` : ""}.`,
    ].filter(Boolean).join(" ")}</p>
  </section>`;
}

function Rates({ history }) {
  const every = Object.values(history);
  const times = every.length ? every[0].map((row) => row[0]) : [];
  if (times.length < 2) return html`<section class="card"><h2>Messages a second</h2><p class="faint">The first seconds are being counted …</p></section>`;
  const sum = (place) => times.map((_, index) => every.reduce((total, rows) => total + (rows[index]?.[place] || 0), 0));
  const series = [
    { name: "sent", colour: "accent", fill: true, values: sum(2) },
    { name: "failed", colour: "bad", values: sum(3) },
    { name: "retried", colour: "later", values: sum(4) },
  ];
  return html`<section class="card"><${Chart} title="Messages a second, the last minutes" times=${times} series=${series} /></section>`;
}

function Hour({ rows }) {
  const last = Math.floor(Date.now() / 60000);
  const minutes = Array.from({ length: 60 }, (_, place) => last - 59 + place);
  const found = new Map(minutes.map((minute) => [minute, { sent: 0, failed: 0 }]));
  for (const row of rows) {
    const one = found.get(Math.floor(Date.parse(row.minute) / 60000));
    if (one) {
      one.sent += row.sent;
      one.failed += row.failed;
    }
  }
  const values = (name) => minutes.map((minute) => found.get(minute)[name]);
  return html`<section class="card"><${Chart} title="Messages a minute, the last hour" every=${5} times=${minutes.map((minute) => minute * 60)}
    series=${[{ name: "sent", colour: "accent", fill: true, values: values("sent") }, { name: "failed", colour: "bad", values: values("failed") }]} /></section>`;
}

const FAILURES = [
  { name: "Message", kind: "words", cell: (row) => html`<a href=${at(`/messages/${row.jobId}`)}>${reasonOf(row.errorMessage) || nameOf(row.errorClass)}</a>` },
  { name: "Channel", cell: (row) => channelName(row.channel) },
  { name: "Kind", cell: (row) => html`${nameOf(row.errorClass)}${row.errorCode ? ` · ${row.errorCode}` : ""}` },
  { name: "When", cell: (row) => html`<${When} at=${row.at} />` },
];

const BLASTS = [
  { name: "Blast", kind: "words", cell: (row) => html`<${BlastName} blast=${row} />` },
  { name: "State", cell: (row) => html`<${StateBadge} state=${row.state} />` },
  { name: "Progress", cell: (row) => html`<${Progress} counts=${row.counts} total=${row.totalMessages} label=${`Progress of ${row.reference || row.blastId}`} />` },
  { name: "Left", kind: "num", cell: (row) => (row.etaSeconds ? `${duration(row.etaSeconds)} at ${rate(row.rate)}/s` : number(Math.round(row.totalMessages * (1 - row.progress)))) },
];

/** Those that go out before those that wait for their time, and the latest first: events bring them in any order. */
const byUse = (a, b) => (a.state === "scheduled") - (b.state === "scheduled") || (a.createdAt < b.createdAt ? 1 : -1);

function Running({ blasts }) {
  blasts.sort(byUse);
  const running = blasts.filter((one) => !one.endedAt);
  const shown = (running.length ? running : blasts).slice(0, 8);
  return html`<section class="card flush"><div class="card-head"><h2>${running.length ? "Blasts on their way" : "Latest blasts"}</h2><a href=${at("/blasts")}>All blasts</a></div>
    <${Table} caption="Blasts" columns=${BLASTS} rows=${shown} id=${(row) => row.blastId}
      empty=${html`<${Empty} title="No blast yet.">Send one through the API, or with <code>kurir send</code>.<//>`} /></section>`;
}

function System({ dashboard }) {
  const { redis, database, logs, system, responseTimes } = dashboard;
  return html`<section class="card"><h2>System</h2><div class="figures">
    <${Figure} name=${redis.memoryMaxBytes ? `Redis, of ${bytes(redis.memoryMaxBytes)}` : "Redis"} value=${redis.up ? bytes(redis.memoryUsedBytes) : "away"} tone=${redis.up ? "" : "bad"} />
    <${Figure} name="log database" value=${bytes(database.sizeBytes)} />
    <${Figure} name="events to log" value=${number(database.eventsLag)} tone=${database.eventsLag > 1000 ? "warn" : ""} />
    <${Figure} name="log files" value=${bytes(logs.sizeBytes)} />
    <${Figure} name="API calls, last hour" value=${number(responseTimes.requests)} />
    <${Figure} name="API errors (5xx)" value=${number(responseTimes.serverErrors)} tone=${responseTimes.serverErrors ? "bad" : ""} to=${at("/logs")} />
    <${Figure} name="load" value=${rate(system.loadAverage)} />
    <${Figure} name="memory free" value=${bytes(system.memoryAvailableBytes)} />
  </div></section>`;
}

export function Overview() {
  const { channels, blasts, history, redis } = useLive();
  const dashboard = useData("/api/dashboard", { every: 10 });
  const shown = (channels || []).filter((one) => one.configured || one.stats.waiting || one.senders.length);
  return html`<${Page} title="Overview"><div class="stack">
    ${channels && !redis && html`<p class="wait bad" role="alert"><strong>Redis does not answer.</strong> Nothing is accepted or sent until it does. The figures are old.</p>`}
    ${channels ? html`<div class="columns">${(shown.length ? shown : channels).map((one) => html`<${ChannelCard} key=${one.name} channel=${one}
      history=${history[one.name] || []} hour=${dashboard.data?.dashboard.channels[one.name]} />`)}</div>` : html`<p class="faint loading" role="status">Reading the live figures …</p>`}
    <div class="columns"><${Rates} history=${history} /><${Loaded} of=${dashboard}>${(found) => html`<${Hour} rows=${found.dashboard.throughput} />`}<//></div>
    <${Running} blasts=${[...blasts.values()]} />
    ${dashboard.data && html`<section class="card flush"><div class="card-head"><h2>Failed last</h2><a href=${at("/messages", { status: "failed" })}>All failures</a></div>
      <${Table} caption="The last failures" columns=${FAILURES} rows=${dashboard.data.dashboard.recentFailures.slice(0, 8)} id=${(row) => row.id}
        empty=${html`<${Empty} title="Nothing has failed." />`} /></section>
      <${System} dashboard=${dashboard.data.dashboard} />`}
  </div><//>`;
}
