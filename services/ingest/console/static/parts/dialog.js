// Dialogs: the browser's own, which keep the focus inside, close with Escape and give the focus back.
import { usePlace } from "../core/router.js";
import { makeStore, useStore } from "../core/store.js";
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "../core/view.js";
import { Field, Form } from "./form.js";

const asked = makeStore(null);

/**
 * Ask before something is done. `act(value)` does it; while it fails the dialog stays and shows why. `field` asks for a
 * text with {label, value}. Resolves to true if it was done.
 */
export const ask = (question) => new Promise((resolve) => asked.set({ ...question, resolve }));

/** Ask what the answer of a call says, if anything, unless the person went elsewhere or opened a dialog meanwhile. */
export async function askAfter(answer, questionOf) {
  const from = location.href;
  const question = questionOf(await answer);
  return question && location.href === from && !document.querySelector("dialog[open]") && ask(question);
}

export function Dialogs() {
  const question = useStore(asked);
  return question && html`<${Question} key=${question} ...${question} />`;
}

/** A dialog; without `onClose` it stays until it is no longer drawn, and hides the page. */
export function Dialog({ title, onClose, children }) {
  const box = useRef();
  const heading = useId();
  // an effect of layout: it is undone before the dialog leaves the page, and others only after the next frame
  useLayoutEffect(() => {
    const dialog = box.current;
    const opener = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      // the browser gives the focus back only while the dialog is still in the page
      if (opener?.isConnected) opener.focus();
    };
  }, []);
  // Escape pressed twice closes it whatever the page says
  return html`<dialog ref=${box} class=${onClose ? "" : "stays"} aria-labelledby=${heading} onCancel=${(event) => { event.preventDefault(); onClose?.(); }}
    onClose=${() => onClose || box.current?.showModal()} onClick=${(event) => event.target === box.current && onClose?.()}>
    <div class="dialog-body"><h2 id=${heading}>${title}</h2>${children}</div></dialog>`;
}

function Question({ title, text, action, danger, field, act, resolve }) {
  const [value, setValue] = useState(field?.value || "");
  const end = (done) => {
    // what it did may have taken so long that another question is open
    asked.set((now) => (now?.resolve === resolve ? null : now));
    resolve(done);
  };
  // a question is about what the page shows: it ends when the person goes elsewhere, or another one signs in
  useEffect(() => () => end(false), [usePlace()]);
  const keep = html`<button type="button" onClick=${() => end(false)}>Keep as it is</button>`;
  return html`<${Dialog} title=${title} onClose=${() => end(false)}>
    <${Form} act=${async () => { await act(value); end(true); }} action=${action} danger=${danger} before=${keep}>${() => html`
      ${text && html`<p>${text}</p>`}
      ${field && html`<${Field} value=${value} onInput=${setValue} maxlength="200" ...${field} />`}`}<//><//>`;
}
