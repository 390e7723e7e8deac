// Words: what the API's short terms mean to a person, and which of them are good or bad news.

export const CHANNEL_NAMES = { email: "Email", whatsapp: "WhatsApp" };
export const channelName = (name) => CHANNEL_NAMES[name] || name;

/** Of each state its tone: ok, busy, warn, bad or calm. */
const TONES = {
  queued: "calm", scheduled: "calm", processing: "busy", retrying: "warn", sent: "ok", failed: "bad",
  cancelled: "calm", expired: "warn", suppressed: "warn",
  enqueueing: "busy", running: "busy", paused: "warn", completed: "ok", completed_with_failures: "warn",
  incomplete: "bad",
  delivered: "ok", read: "ok", bounced: "bad", undelivered: "bad", complained: "bad",
  waiting: "calm", info: "calm", warning: "warn", error: "bad", critical: "bad",
};
const NAMES = {
  processing: "being sent", completed_with_failures: "completed, some failed", enqueueing: "being accepted",
};

export const toneOf = (state) => TONES[state] || "calm";
export const nameOf = (state) => NAMES[state] || String(state ?? "").replaceAll("_", " ");

/** Return the options of a filter: any, or one of these. */
export const anyOf = (names, name = nameOf) => [["", "any"], ...names.map((one) => [one, name(one)])];

export const STATUSES = [
  "queued", "scheduled", "processing", "retrying", "sent", "failed", "suppressed", "expired", "cancelled",
];
export const DELIVERIES = ["delivered", "read", "bounced", "undelivered", "complained"];

/** Return the part of a provider's words that a person reads; JSON is kept whole where it has no such part. */
export function reasonOf(text) {
  if (!text?.startsWith("{")) return text || "";
  try {
    const said = JSON.parse(text);
    return said.error?.message || said.message || text;
  } catch {
    return text;
  }
}

/** Return why something waits as {text, tone, hint}, null if nothing holds it. */
export function waitOf(reason, { channel, scheduledAt } = {}) {
  if (!reason) return null;
  const [kind, rest] = reason.includes(": ") ? [reason.slice(0, reason.indexOf(": ")), reason.slice(reason.indexOf(": ") + 2)] : [reason, ""];
  const senders = channel?.senders || [];
  const why = senders.find((one) => !one.available && one.reason)?.reason;
  const known = {
    paused: { text: `Paused: ${rest}`, tone: "warn", hint: "Nothing is sent until it is resumed." },
    blasts_paused: { text: "Every waiting message belongs to a paused blast", tone: "warn", hint: "Resume the blasts to send them." },
    scheduled: { text: scheduledAt ? `Scheduled for ${scheduledAt}` : "Everything that waits is scheduled for later", tone: "calm" },
    no_senders: { text: "No sender is running for this channel", tone: "bad", hint: "Start the channel's sender service." },
    provider_unavailable: { text: why ? `The provider cannot be reached: ${why}` : "The provider cannot be reached", tone: "bad", hint: "Sending continues by itself when it answers again." },
    log_behind: { text: "The log is behind, and the senders wait for it", tone: "warn", hint: "Check that the logger runs and its disk has room." },
    rate_limited: { text: `Sending at the channel's limit${channel?.rate ? ` of ${channel.rate}` : ""}`, tone: "calm" },
    domain_limited: { text: rest ? `Waits for the limit of ${rest}` : "Waits for the limit of a recipient's domain", tone: "calm" },
    recipient_limited: { text: "Waits for the limit of the recipient", tone: "calm" },
    retrying: { text: "Waits for the next attempt", tone: "warn", hint: "The last attempts failed for a reason that may pass." },
    behind_others: { text: "Waits behind messages that came earlier", tone: "calm" },
  };
  return known[kind] || { text: nameOf(reason), tone: "calm" };
}
