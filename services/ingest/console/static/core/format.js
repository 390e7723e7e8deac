// Formats: numbers, times and durations in the words of the reader's own language and zone.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const percents = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 });
const moments = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clocks = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const days = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });

export const number = (value) => (value == null ? "–" : whole.format(value));
export const rate = (value) => (value == null ? "–" : value < 10 ? tenths.format(value) : whole.format(value));
export const short = (value) => compact.format(value);
export const percent = (value) => (value == null ? "–" : percents.format(value));
export const moment = (text) => (text ? moments.format(new Date(text)) : "–");
export const clock = (seconds) => clocks.format(new Date(seconds * 1000));

/** Return how many of something, with the right ending: "1 message", "1,200 messages". */
export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;

export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 1) return "under 1 s";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86400) return `${tenths.format(seconds / 3600)} h`;
  return `${tenths.format(seconds / 86400)} days`;
}

export const milliseconds = (ms) => (ms == null ? "–" : ms < 1000 ? `${Math.round(ms)} ms` : duration(ms / 1000));

export function ago(text, now = Date.now()) {
  if (!text) return "–";
  const seconds = (now - Date.parse(text)) / 1000;
  if (seconds < -1) return `in ${duration(-seconds)}`;
  if (seconds < 5) return "just now";
  return seconds < 86400 ? `${duration(seconds)} ago` : days.format(new Date(text));
}

/** Return a time as a field for times has it: local, in minutes; "" for none. */
export function localTime(text) {
  const at = new Date(text || NaN);
  return isNaN(at) ? "" : new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

/** Return what such a field has as the API takes it; "" for none. */
export const instant = (text) => (text ? new Date(text).toISOString() : "");

export function bytes(value) {
  if (value == null) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  const power = value < 1 ? 0 : Math.min(Math.floor(Math.log(value) / Math.log(1024)), units.length - 1);
  return `${tenths.format(value / 1024 ** power)} ${units[power]}`;
}
