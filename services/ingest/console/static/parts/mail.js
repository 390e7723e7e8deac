// Previews: a mail in a frame that can do nothing, a WhatsApp message as a bubble.
import { post, useSession } from "../core/api.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../core/view.js";

/** The HTML of a mail. The frame's own policy keeps it from loading, running or reaching anything. */
export function MailFrame({ content, title }) {
  const frame = useRef();
  const [ready, setReady] = useState(false);
  const [height, setHeight] = useState(320);
  // before the next frame of the page, or a mail's frame that loads quickly would not be heard, and stay empty
  useLayoutEffect(() => {
    const listen = ({ source, data }) => {
      if (source !== frame.current?.contentWindow || !data) return;
      if (data.frameReady) setReady(true);
      if (data.frameHeight) setHeight(Math.min(Math.max(Number(data.frameHeight) + 24 || 0, 120), 900));
    };
    addEventListener("message", listen);
    return () => removeEventListener("message", listen);
  }, []);
  useEffect(() => {
    if (ready) frame.current?.contentWindow.postMessage(content, "*");
  }, [ready, content]);
  return html`<iframe ref=${frame} src="/console/frame" sandbox="allow-scripts" title=${title} class="mail" style=${{ height: `${height}px` }} />`;
}

const textOf = (one) => one.text ?? one.image?.link ?? one.video?.link ?? one.document?.link ?? one.payload ?? JSON.stringify(one);

/** The parts of a WhatsApp message that come from us; its fixed text is the provider's. */
function Bubble({ components, name }) {
  const part = (type) => components.filter((one) => one.type === type).flatMap((one) => one.parameters);
  return html`<div class="bubble">
    ${part("header").map((one) => html`<p class="bubble-head"><bdi>${textOf(one)}</bdi></p>`)}
    <p class="faint">${name ? `Approved template ${name}` : "The approved text"}, with:</p>
    <ol>${part("body").map((one, place) => html`<li><code>${`{{${place + 1}}}`}</code> <bdi>${textOf(one)}</bdi></li>`)}</ol>
    ${components.filter((one) => one.type === "button").map((one) => html`<p class="bubble-button"><bdi>${one.parameters.map(textOf).join(" ")}</bdi></p>`)}
  </div>`;
}

/** Preview what is asked for, in JSON, a moment after its last change; "" asks for nothing. */
export function usePreview(asked) {
  const [state, setState] = useState({});
  const { signedIn } = useSession();
  useEffect(() => {
    if (!asked || !signedIn) return undefined;
    const stop = new AbortController();
    const timer = setTimeout(() => post("/api/messages/preview", JSON.parse(asked), { signal: stop.signal }).then(
      setState, (problem) => problem.name !== "AbortError" && setState((old) => ({ ...old, problem }))), 350);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [asked, signedIn]);
  return state;
}

/** A preview as the API returns it. */
export function Preview({ preview, name }) {
  const [plain, setPlain] = useState(false);
  if (preview.components) return html`<${Bubble} components=${preview.components} name=${name} />`;
  return html`<div class="stack"><p><strong><bdi>${preview.subject}</bdi></strong></p>
    ${preview.html && preview.text && html`<div class="actions" role="group" aria-label="Form of the mail">
      <button type="button" aria-pressed=${!plain} onClick=${() => setPlain(false)}>HTML</button><button type="button" aria-pressed=${plain} onClick=${() => setPlain(true)}>Text</button></div>`}
    ${preview.html && !plain ? html`<${MailFrame} content=${preview.html} title="The mail" />` : html`<pre tabindex="0">${preview.text}</pre>`}</div>`;
}
