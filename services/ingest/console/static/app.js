// The console: signs in, shows the navigation and the page of the URL.
import { loadSession, signIn, signOut, useSession } from "./core/api.js";
import { startLive, useLive } from "./core/live.js";
import { at, match, startRouter, usePlace } from "./core/router.js";
import { useStore } from "./core/store.js";
import { nextTheme, theme } from "./core/theme.js";
import { html, render, useEffect, useState } from "./core/view.js";
import { Button, Empty, Page, Problem } from "./parts/basics.js";
import { Dialog, Dialogs } from "./parts/dialog.js";
import { Field, Form, problemOf } from "./parts/form.js";
import { Toasts } from "./parts/toasts.js";
import { Blast } from "./pages/blast.js";
import { Blasts } from "./pages/blasts.js";
import { Channels } from "./pages/channels.js";
import { Logs } from "./pages/logs.js";
import { Message } from "./pages/message.js";
import { Messages } from "./pages/messages.js";
import { Overview } from "./pages/overview.js";
import { Send } from "./pages/send.js";
import { Suppressions } from "./pages/suppressions.js";
import { Template, Templates } from "./pages/templates.js";
import { Webhook, Webhooks } from "./pages/webhooks.js";

const PAGES = [
  ["/", Overview, "Overview"],
  ["/send", Send, "Send"],
  ["/blasts", Blasts, "Blasts"],
  ["/blasts/:id", Blast],
  ["/messages", Messages, "Messages"],
  ["/messages/:id", Message],
  ["/templates", Templates, "Templates"],
  ["/templates/:id", Template],
  ["/suppressions", Suppressions, "Suppressions"],
  ["/channels", Channels, "Channels"],
  ["/webhooks", Webhooks, "Webhooks"],
  ["/webhooks/:id", Webhook],
  ["/logs", Logs, "Logs"],
];

function Current() {
  const { path } = usePlace();
  for (const [pattern, Shown] of PAGES) {
    const values = match(pattern, path);
    if (values) return html`<${Shown} key=${pattern + JSON.stringify(values)} ...${values} />`;
  }
  return html`<${Page} title="Not found"><${Empty} title="There is no page at this address.">
    <a href=${at("/")}>Go to the overview</a><//><//>`;
}

function Navigation() {
  const { path } = usePlace();
  const here = (pattern) => (pattern === "/" ? path === "/" : path.startsWith(pattern));
  return html`<nav aria-label="Console"><ul>${PAGES.filter(([, , name]) => name).map(([pattern, , name]) => html`<li key=${pattern}>
    <a href=${at(pattern)} aria-current=${here(pattern) ? "page" : null}>${name}</a></li>`)}</ul></nav>`;
}

function LiveMark() {
  const { open, redis, log } = useLive();
  const [text, tone] = !open ? ["Not live: connecting …", "warn"] : !redis ? ["Redis is away", "bad"] : !log ? ["The log is away", "bad"] : ["Live", "ok"];
  return html`<span class="live ${tone}" role="status">${text}</span>`;
}

function Shell() {
  const { key, required, version } = useSession();
  const look = useStore(theme);
  const [open, setOpen] = useState(false);
  const { path } = usePlace();
  useEffect(() => setOpen(false), [path]);
  return html`<a class="skip" href="#page" onClick=${(event) => { event.preventDefault(); document.querySelector("h1")?.focus(); }}>Skip to the page</a>
    <div class="shell ${open ? "open" : ""}">
      <header class="side">
        <div class="brand"><a href=${at("/")}><span class="mark" aria-hidden="true" />Kurir</a>
          <button type="button" class="menu" aria-expanded=${open} onClick=${() => setOpen(!open)}>Menu</button></div>
        <div class="side-body"><${Navigation} />
          <div class="side-end"><${LiveMark} />
            <button type="button" class="plain" onClick=${nextTheme}>Theme: ${look}</button>
            ${required && html`<${Button} kind="plain" onClick=${signOut}>Sign out ${key}<//>`}
            <a href="/docs">API</a> <span class="faint">${version}</span></div></div>
      </header>
      <main id="page"><${Current} /></main>
    </div><${Dialogs} /><${Toasts} />`;
}

function KeyForm() {
  const [apiKey, setKey] = useState("");
  return html`<${Form} act=${() => signIn(apiKey)} action="Sign in" shown=${["apiKey"]}>${(problem) => html`
      <input type="text" autocomplete="username" value="Kurir" hidden readonly />
      <${Field} label="API key" kind="password" value=${apiKey} onInput=${setKey} autocomplete="current-password" autofocus
        hint="You may see and do what the key may. The key is not kept in this browser." problem=${problemOf(problem, "apiKey")} />`}<//>`;
}

function SignIn() {
  useEffect(() => { document.title = "Sign in · Kurir"; }, []);
  return html`<main class="sign-in"><h1><span class="mark" aria-hidden="true" />Kurir</h1><${KeyForm} /></main>`;
}

function App() {
  const now = useSession();
  const [problem, setProblem] = useState(null);
  const start = () => loadSession().then(() => setProblem(null), setProblem);
  useEffect(() => { start(); }, []);
  // a page that was left open while Redis or the server is away shows the console when they are back
  useEffect(() => {
    if (!problem) return undefined;
    const timer = setTimeout(start, 5000);
    return () => clearTimeout(timer);
  }, [problem]);
  if (!now) return problem ? html`<main class="sign-in"><h1>Kurir</h1><${Problem} problem=${problem} again=${start} /></main>` : null;
  // where a session ends by itself, the page stays with what was written in it; another key begins with a new one
  if (now.signedIn || now.key) return html`<${Shell} key=${now.key} />${!now.signedIn && html`<${Dialog} title="Your session has ended"><${KeyForm} /><//>`}`;
  return html`<${SignIn} />`;
}

startRouter();
startLive();
render(html`<${App} />`, document.getElementById("app"));
