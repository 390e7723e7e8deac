// Toasts: short messages about what was just done. Those about failures stay until they are closed.
import { makeStore, useStore } from "../core/store.js";
import { html } from "../core/view.js";

const shown = makeStore([]);
let number = 0;

export function toast(text, tone = "ok") {
  number += 1;
  const one = { id: number, text, tone };
  shown.set((all) => [...all.slice(-3), one]);
  if (tone !== "bad") setTimeout(() => drop(one.id), 6000);
}

const drop = (id) => shown.set((all) => all.filter((one) => one.id !== id));

/** Do something and say how it went; a failure is shown, not thrown. */
export async function attempt(action, done) {
  try {
    const answer = await action();
    const text = typeof done === "function" ? done(answer) : done;
    if (text) toast(text);
    return true;
  } catch (problem) {
    toast(problem.message, "bad");
    return false;
  }
}

export function Toasts() {
  const all = useStore(shown);
  return html`<div class="toasts" role="status" aria-live="polite">${all.map((one) => html`<div key=${one.id} class="toast ${one.tone}">
    <span>${one.text}</span><button type="button" class="plain" aria-label="Close this message" onClick=${() => drop(one.id)}>×</button></div>`)}</div>`;
}
