// The mailbox: a list of messages, and one of them beside it. Everything from outside becomes text, never markup.
const PAGE = 100;
const LONGEST_SOURCE = 200_000;
const CHANNELS = { email: "Email", whatsapp: "WhatsApp" };
const $ = (id) => document.getElementById(id);

const state = { messages: [], count: 0, total: PAGE, older: false, shown: null, tab: "" };

/** An element with attributes, listeners (`on…`), and children, of which strings become text. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((one) => one !== null && one !== false));
  return made;
}

/** Text from outside, whose direction does not spread. */
const outside = (text) => el("bdi", {}, text);

async function call(path, method = "GET") {
  const answer = await fetch(path, { method });
  if (!answer.ok) throw new Error(answer.status === 404 ? "This message is no longer kept." : `The sandbox answered ${answer.status}.`);
  return answer;
}

// The view is in the URL: ?q=&channel=&message=&tab=
const view = () => Object.fromEntries(new URLSearchParams(location.search));

function path(changes) {
  const wanted = { ...view(), ...changes };
  const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
  return query.size ? `/?${query}` : "/";
}

function go(changes, replace = false) {
  history[replace ? "replaceState" : "pushState"](null, "", path(changes));
}

// The list. An older answer that comes later is not shown.
let lastAsked = 0;
let lastShown = 0;
async function loadList() {
  const turn = lastAsked += 1;
  const { q = "", channel = "" } = view();
  const query = new URLSearchParams(Object.entries({ q, channel, limit: state.total }).filter(([, value]) => value));
  const answer = await (await call(`/messages?${query}`)).json();
  const now = view();
  if ((now.q ?? "") !== q || (now.channel ?? "") !== channel) return; // typed on: a later answer is on its way
  if (turn < lastShown) return;
  lastShown = turn;
  state.messages = answer.messages;
  state.count = answer.count;
  state.older = answer.messages.length === state.total;
  showList();
}

function row(message) {
  const isShown = String(message.number) === view().message;
  return el(
    "li", {},
    el("a", { class: "row", href: path({ message: message.number, tab: "" }), "data-number": message.number, "aria-current": isShown && "true" },
      el("span", { class: "to" }, outside(message.to)),
      clock(message.acceptedAt),
      el("span", { class: "subject" }, el("span", { class: `badge ${message.channel in CHANNELS ? message.channel : ""}` }, CHANNELS[message.channel] ?? ""), outside(message.subject || "(no subject)")),
    ),
  );
}

function clock(at) {
  const when = new Date(at);
  const today = when.toDateString() === new Date().toDateString();
  const text = when.toLocaleString([], today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
  return el("time", { datetime: at, title: at }, text);
}

function showList() {
  const { q, channel } = view();
  const focused = document.activeElement?.dataset?.number;
  $("messages").replaceChildren(...state.messages.map(row));
  if (focused) document.querySelector(`[data-number="${focused}"]`)?.focus();
  const shown = state.messages.length;
  const accepted = `${state.count} accepted`;
  $("summary").textContent = shown ? `${shown}${state.older ? " newest" : ""} shown, ${accepted}` : q || channel ? `Nothing matches, ${accepted}` : "No messages yet. What is sent appears here at once.";
  $("older").hidden = !state.older;
}

// One message
async function showMessage() {
  const { message: number } = view();
  document.body.classList.toggle("reading", Boolean(number));
  for (const one of document.querySelectorAll("[data-number]")) {
    if (one.dataset.number === number) one.setAttribute("aria-current", "true");
    else one.removeAttribute("aria-current");
  }
  if (!number) return showNothing("Choose a message.");
  if (state.shown?.number === Number(number)) return showTab();
  state.shown = null;
  try {
    const { message } = await (await call(`/messages/${encodeURIComponent(number)}`)).json();
    if (view().message !== number) return;
    state.shown = message;
    draw(message);
  } catch (error) {
    if (view().message === number) showNothing(error.message);
  }
}

function showNothing(words) {
  state.shown = null;
  document.title = "Kurir sandbox";
  $("message").replaceChildren(back(), el("p", { class: "empty" }, words));
}

const back = () => el("a", { class: "button back", href: path({ message: "", tab: "" }), "data-back": true }, "← Messages");

function draw(message) {
  document.title = `${message.subject || "(no subject)"} · Kurir sandbox`;
  const facts = [["From", message.from], ["To", message.to], ["Accepted", clock(message.acceptedAt)], ["Size", size(message.size)], ["Job", message.jobId], ["Message id", message.messageId]];
  $("message").replaceChildren(
    el("div", { class: "message-head" }, el("h2", {}, outside(message.subject || "(no subject)")),
      el("div", { class: "actions" }, back(), el("button", { type: "button", onclick: () => deleteShown(message.number) }, "Delete"))),
    el("dl", { class: "facts" }, facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, typeof value === "string" ? outside(value) : value)])),
    ...(message.isCut ? [el("p", { class: "hint" }, "The message is large: only its beginning is kept.")] : []),
    el("div", { class: "tabs", role: "tablist", "aria-label": "Views of the message", onkeydown: moveTab }, tabs(message).map(([id, name]) => el("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": "panel", onclick: () => { go({ tab: id }, true); showTab(); } }, name))),
    el("div", { class: "panel", role: "tabpanel", id: "panel" }),
  );
  showTab();
}

function tabs(message) {
  if (message.channel !== "email") return [["message", "Message"], ["source", "Source"]];
  return [
    ...(message.hasHtml ? [["html", "HTML"]] : []),
    ...(message.text !== null || !message.hasHtml ? [["text", "Text"]] : []),
    ["source", "Source"], ["headers", "Headers"],
    ...(message.attachments.length ? [["attachments", `Attachments (${message.attachments.length})`]] : []),
  ];
}

function showTab() {
  const message = state.shown;
  const names = tabs(message).map(([id]) => id);
  const tab = names.includes(view().tab) ? view().tab : names[0];
  for (const one of document.querySelectorAll("[role=tab]")) {
    const isChosen = one.id === `tab-${tab}`;
    one.setAttribute("aria-selected", isChosen);
    one.tabIndex = isChosen ? 0 : -1;
  }
  const panel = $("panel");
  panel.setAttribute("aria-labelledby", `tab-${tab}`);
  if (panel.dataset.of === `${message.number} ${tab}`) return;
  panel.dataset.of = `${message.number} ${tab}`;
  panel.replaceChildren(...PANELS[tab](message));
}

const PANELS = {
  html: (message) => [
    el("iframe", { class: "mail", sandbox: "", title: "The mail", src: `/messages/${message.number}/html` }),
    el("p", { class: "hint" }, "Scripts do not run here, and nothing is loaded from other hosts."),
  ],
  text: (message) => [message.text === null ? el("p", { class: "empty" }, "This mail has no text.") : words(message.text)],
  source: (message) => {
    const shown = words("…");
    const from = `/messages/${message.number}/source`;
    call(from).then((answer) => answer.text()).then((text) => {
      shown.textContent = text.length > LONGEST_SOURCE ? `${text.slice(0, LONGEST_SOURCE)}\n…` : text;
    }, (error) => { shown.textContent = error.message; });
    return [el("p", {}, el("a", { href: from, target: "_blank", rel: "noopener" }, "Open the whole source")), shown];
  },
  headers: (message) => [el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Field"), el("th", { scope: "col" }, "Value"))),
    el("tbody", {}, message.headers.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, outside(value))))))],
  attachments: (message) => [el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "File"), el("th", { scope: "col" }, "Type"), el("th", { scope: "col", class: "num" }, "Size"))),
    el("tbody", {}, message.attachments.map((one) => el("tr", {},
      el("td", {}, el("a", { href: `/messages/${message.number}/parts/${one.part}`, download: one.name }, outside(one.name))),
      el("td", {}, one.contentType), el("td", { class: "num" }, size(one.size))))))],
  message: (message) => [bubble(message)],
};

/** Text as it is; it can be scrolled by keyboard. */
const words = (text) => el("pre", { tabindex: "0", dir: "auto" }, text);

/** A WhatsApp message: the parameters that were sent; the text around them is with the provider. */
function bubble(message) {
  const found = message.bubble;
  if (!found) return el("p", { class: "empty" }, "This message cannot be read. See its source.");
  return el("div", { class: "chat" }, el("div", { class: "bubble" },
    ...found.header.map((text) => el("strong", {}, outside(text))),
    el("p", { class: "faint" }, "Template ", outside(found.template), ", language ", outside(found.language), found.body.length ? ", with:" : ""),
    el("ol", {}, found.body.map((text, place) => el("li", {}, el("code", {}, `{{${place + 1}}}`), outside(text)))),
    ...found.buttons.map((text) => el("p", { class: "button-text" }, outside(text))),
    clock(message.acceptedAt)));
}

function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} KB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function moveTab(event) {
  const all = [...event.currentTarget.querySelectorAll("[role=tab]")];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const next = { Home: all[0], End: all.at(-1) }[event.key] ?? (step && all.at((all.indexOf(document.activeElement) + step) % all.length));
  if (!next) return;
  event.preventDefault();
  next.focus();
  next.click();
}

async function deleteShown(number) {
  await call(`/messages/${number}`, "DELETE").catch(() => {}); // it is gone either way
  const isShown = view().message === String(number);
  if (isShown) go({ message: "", tab: "" }, true);
  await refresh();
  if (isShown) $("message").focus();
}

// Everything at once, and what makes it so
async function refresh() {
  try {
    await loadList();
  } catch (error) {
    $("summary").textContent = error.message;
  }
  await showMessage();
}

let isLoading = false;
let isDue = false;
/** Load the list again; changes that come meanwhile load it once more. */
async function follow() {
  if (isLoading) {
    isDue = true;
    return;
  }
  isLoading = true;
  do {
    isDue = false;
    await loadList().catch(() => {}); // the stream says that the sandbox is away
  } while (isDue);
  isLoading = false;
}

function listen() {
  const events = new EventSource("/events");
  const show = (kind, words) => {
    $("live").className = `live ${kind}`;
    $("live").textContent = words;
  };
  events.onopen = () => show("ok", "live");
  events.onerror = () => show("bad", "the sandbox does not answer");
  events.onmessage = follow;
}

let typing;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    go({ q: $("search").value }, true);
    state.total = PAGE;
    loadList().catch((error) => { $("summary").textContent = error.message; });
  }, 150);
});
$("channel").addEventListener("change", () => {
  go({ channel: $("channel").value });
  state.total = PAGE;
  refresh();
});
$("tools").addEventListener("submit", (event) => event.preventDefault());
$("older").addEventListener("click", () => {
  state.total += PAGE;
  refresh();
});
$("delete-all").addEventListener("click", () => $("confirm").showModal());
$("confirm").addEventListener("close", async () => {
  if ($("confirm").returnValue !== "yes") return;
  $("confirm").returnValue = "";
  await call("/messages", "DELETE").catch(() => {}); // what is still there stays in the list
  go({ message: "", tab: "" });
  refresh();
});

// A link of this page changes the view only; any other click is the browser's
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-number], a[data-back]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  const from = view().message;
  history.pushState(null, "", link.getAttribute("href"));
  showMessage().then(() => ("back" in link.dataset ? document.querySelector(`[data-number="${CSS.escape(from ?? "")}"]`) : $("message"))?.focus({ preventScroll: true }));
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("confirm").open) return;
  const isTyping = event.target.matches("input, select");
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "Escape" && view().message && !isTyping) {
    const from = view().message;
    go({ message: "", tab: "" });
    showMessage();
    document.querySelector(`[data-number="${CSS.escape(from)}"]`)?.focus();
  } else if (event.target.matches(".row") && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    const rows = [...document.querySelectorAll(".row")];
    const next = rows[rows.indexOf(event.target) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) event.preventDefault();
    next?.focus();
  }
});

function takeOver() {
  $("search").value = view().q ?? "";
  $("channel").value = view().channel ?? "";
  refresh();
}
addEventListener("popstate", takeOver);
takeOver();
listen();
