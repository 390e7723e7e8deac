// Channels: their state, senders and limits; pause, resume, change the rate, check the provider.
import { call, can, get, useData } from "../core/api.js";
import { count, duration, number, rate } from "../core/format.js";
import { useLive } from "../core/live.js";
import { html, useState } from "../core/view.js";
import { channelName } from "../core/words.js";
import { Badge, Button, Empty, Fact, Figure, Loaded, Page, Problem, Wait } from "../parts/basics.js";
import { Dialog } from "../parts/dialog.js";
import { Field, Form, problemOf } from "../parts/form.js";
import { Table } from "../parts/table.js";
import { toast } from "../parts/toasts.js";
import { ChannelActions, channelState, waitOfChannel } from "./overview.js";

const PROVIDERS = { email: "/api/smtp/status", whatsapp: "/api/whatsapp/status" };

const SENDERS = [
  { name: "Sender", cell: (row) => html`<code>${row.id}</code><span class="sub">${row.host}</span>` },
  { name: "State", cell: (row) => html`<${Badge} tone=${row.available ? "ok" : "bad"}>${row.available ? "ready" : "not sending"}<//>${row.reason && html`<span class="sub">${row.reason}</span>`}` },
  { name: "At once", kind: "num", cell: (row) => number(row.concurrency) },
  { name: "Own limit", cell: (row) => row.rate || "–" },
];

function ChangeRate({ channel, close, changed }) {
  const [text, setText] = useState(channel.rate && channel.rate !== "off" ? channel.rate : "");
  const path = `/api/channels/${channel.name}`;
  const act = async (value) => {
    await call("PATCH", path, { rate: value });
    toast(`The limit of ${channelName(channel.name)} is ${value || "the senders’ own"} now.`);
    close();
    changed();
  };
  return html`<${Dialog} title=${`Limit of ${channelName(channel.name)}`} onClose=${close}>
    <p>It takes effect at once, for all senders together, and stays until it is changed.</p>
    <${Form} act=${() => act(text.trim() || "off")} action="Change the limit" shown=${["rate"]}
      before=${html`<button type="button" onClick=${close}>Keep as it is</button>${channel.rateSource === "api" && html`<${Button} onClick=${() => act(null)}>Use the senders’ own<//>`}`}>
      ${(problem) => html`<${Field} label="Messages per time" value=${text} onInput=${setText} hint="Such as 10/1s or 600/1m; empty for no limit." placeholder="10/1s" problem=${problemOf(problem, "rate")} />`}<//><//>`;
}

function Provider({ channel }) {
  const [found, setFound] = useState(null);
  const [problem, setProblem] = useState(null);
  const check = () => get(PROVIDERS[channel.name]).then((answer) => { setFound(answer); setProblem(null); }, setProblem);
  return html`<div class="stack"><div><${Button} onClick=${check}>Check the provider<//></div><${Problem} problem=${problem} />
    ${found && html`<div role="status"><p><${Badge} tone=${found.reachable ? "ok" : "bad"}>${found.reachable ? "reachable" : "not reachable"}<//> <${Badge} tone=${found.authenticated ? "ok" : "bad"}>${found.authenticated ? "accepts our credentials" : "does not accept our credentials"}<//></p>
      <details class="more"><summary>What it said</summary><pre tabindex="0">${JSON.stringify(found.provider, null, 2)}</pre></details></div>`}</div>`;
}

function Channel({ channel, changed }) {
  const [changing, setChanging] = useState(false);
  const [state, tone] = channelState(channel);
  const { stats } = channel;
  const ages = Object.entries(channel.oldestAgeSeconds);
  return html`<section class="card stack" aria-labelledby=${`channel-${channel.name}`}>
    <div class="card-head"><h2 id=${`channel-${channel.name}`}>${channelName(channel.name)} <${Badge} tone=${tone}>${state}<//></h2>
      <div class="actions">${can("admin") && html`<button type="button" onClick=${() => setChanging(true)}>Change the limit<span class="hidden"> of ${channelName(channel.name)}</span></button>`}<${ChannelActions} channel=${channel} /></div></div>
    <${Wait} reason=${waitOfChannel(channel)} channel=${channel} />
    <div class="figures">
      <${Figure} name="waiting" value=${number(stats.waiting)} /><${Figure} name="being sent" value=${number(stats.active)} />
      <${Figure} name="retrying" value=${number(stats.delayed)} /><${Figure} name="scheduled" value=${number(stats.scheduled)} />
      <${Figure} name="held by pauses" value=${number(stats.paused)} /><${Figure} name="sent in all" value=${number(stats.completed)} />
      <${Figure} name="failed in all" value=${number(stats.failed)} />
      ${channel.perSecond && html`<${Figure} name="sent/second" value=${rate(channel.perSecond.sent)} />`}
    </div>
    <dl class="facts">
      <${Fact} name="Limit">${!channel.rate ? "unknown until a sender runs" : channel.rate === "off" ? "none" : channel.rate}${channel.rateSource === "api" ? ", set at run time" : ""}<//>
      <${Fact} name="Oldest waiting">${ages.length ? ages.map(([lane, age]) => `${lane} ${duration(age)}`).join(", ") : "nothing waits"}<//>
      <${Fact} name="Senders">${count(channel.senders.length, "sender")}<//>
    </dl>
    ${channel.senders.length > 0 && html`<${Table} caption=${`Senders of ${channelName(channel.name)}`} columns=${SENDERS} rows=${channel.senders} id=${(row) => row.id} />`}
    <${Provider} channel=${channel} />
    ${changing && html`<${ChangeRate} channel=${channel} close=${() => setChanging(false)} changed=${changed} />`}
  </section>`;
}

export function Channels() {
  const { channels } = useLive();
  const found = useData("/api/channels");
  const names = new Map((channels || []).map((one) => [one.name, one]));
  return html`<${Page} title="Channels"><${Loaded} of=${found}>${(answer) => html`<div class="stack">${answer.channels.length
    ? answer.channels.map((one) => html`<${Channel} key=${one.name} channel=${names.get(one.name) || one} changed=${found.reload} />`)
    : html`<${Empty} title="There is no channel." />`}</div>`}<//><//>`;
}
