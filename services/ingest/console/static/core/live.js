// Live values: one stream of events for the page, open while the page is visible.
import { loadSession, session } from "./api.js";
import { makeStore, useStore } from "./store.js";

const HISTORY_S = 300;
const LATE_S = 4;
const SILENT_MS = 20000;
const KEPT = 200;
const empty = { open: false, redis: true, log: true, channels: null, blasts: new Map(), history: {} };

export const live = makeStore(empty);
export const useLive = () => useStore(live);

let source = null;
let heardAt;

/** Add blasts to those that are known; a page that is open for days forgets the oldest. */
const byId = (blasts, known) => new Map([...[...known].slice(-KEPT), ...blasts.map((one) => [one.blastId, { ...one, heardAt: performance.now() }])]);

/** Return what the stream said last if that is newer than what the page asked for at `sentAt`, else what it read. */
export const newer = (streamed, read, sentAt) => (streamed?.heardAt > sentAt ? streamed : { ...streamed, ...read });

/** Add this second's figures. One that an event came too late for has the same; a longer pause has none. */
function longer(history, channels, at) {
  const second = Math.floor(Date.parse(at) / 1000);
  const found = {};
  for (const { name, perSecond } of channels) {
    const rows = [...(history[name] || [])];
    const last = rows.length ? rows[rows.length - 1][0] : second - 1;
    const figures = [perSecond.enqueued, perSecond.sent, perSecond.failed, perSecond.retried];
    const missed = second - last > LATE_S ? [0, 0, 0, 0] : figures;
    for (let gap = Math.max(last + 1, second - HISTORY_S); gap < second; gap += 1) rows.push([gap, ...missed]);
    rows.push([second, ...figures]);
    found[name] = rows.slice(-HISTORY_S);
  }
  return found;
}

const readers = {
  state: (now, state) => ({ ...now, ...state, open: true, blasts: byId(state.blasts, []) }),
  channels: (now, event) => ({ ...now, ...event, history: longer(now.history, event.channels, event.at) }),
  blast: (now, blast) => ({ ...now, blasts: byId([blast], now.blasts) }),
};

function open() {
  if (source || document.hidden || !session.get()?.signedIn) return;
  heardAt = performance.now();
  source = new EventSource("/api/events");
  source.onopen = () => live.set((now) => ({ ...now, open: true }));
  source.onerror = () => {
    live.set((now) => ({ ...now, open: false }));
    // the browser tries again by itself, but not after an answer that refused it
    if (source?.readyState === EventSource.CLOSED) {
      // until then it stays, or every news of the session would open another one
      setTimeout(again, 5000);
      // the session may have ended
      loadSession().catch(() => {});
    }
  };
  for (const [name, read] of Object.entries(readers)) {
    source.addEventListener(name, (event) => {
      heardAt = performance.now();
      live.set((now) => read(now, JSON.parse(event.data)));
    });
  }
}

function close() {
  source?.close();
  source = null;
}

function again() {
  close();
  open();
}

export function startLive() {
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  session.watch(() => (session.get()?.signedIn ? open() : close()));
  open();
  // the server speaks every second; a connection that nobody closed may be dead for a quarter of an hour
  setInterval(() => {
    if (!source || performance.now() - heardAt < SILENT_MS) return;
    live.set((now) => ({ ...now, open: false }));
    again();
  }, 5000);
}
