// Tables: real ones, which become cards on a narrow screen; long lists have pages.
import { useQuery } from "../core/router.js";
import { html } from "../core/view.js";
import { Empty } from "./basics.js";

/** `columns` are {name, cell(row), kind}; the first is the row's heading. */
export function Table({ caption, columns, rows, id, empty, dim }) {
  if (!rows.length) return empty || html`<${Empty} title="Nothing here yet." />`;
  return html`<div class="table-box ${dim ? "dim" : ""}"><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${columns.map((one) => html`<th scope="col" class=${one.kind || ""}>${one.kind === "end" ? html`<span class="hidden">${one.name}</span>` : one.name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${id(row)}>${columns.map((one, place) => {
      const cell = one.cell(row);
      return place ? html`<td class=${one.kind || ""} data-name=${one.kind === "end" ? "" : one.name}>${cell}</td>` : html`<th scope="row" class=${one.kind || ""}>${cell}</th>`;
    })}</tr>`)}</tbody>
  </table></div>`;
}

/** Links to the first and the next page; the cursor is in the URL, so the back button returns to the page before. */
export function Pager({ next, shown }) {
  const [query, change] = useQuery();
  if (!next && !query.cursor) return null;
  return html`<nav class="pager" aria-label="Pages of this list">
    <button type="button" disabled=${!query.cursor} onClick=${() => change({ cursor: "" })}>Latest</button>
    <span class="faint">${shown} on this page</span>
    <button type="button" disabled=${!next} onClick=${() => change({ cursor: next })}>Older</button>
  </nav>`;
}
