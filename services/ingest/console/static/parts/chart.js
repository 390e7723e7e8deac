// Charts: lines over time by uPlot, with the same figures as a table for those who do not see them.
import uPlot from "../vendor/uplot.js";
import { clock, rate, short } from "../core/format.js";
import { theme } from "../core/theme.js";
import { useStore } from "../core/store.js";
import { html, useEffect, useRef } from "../core/view.js";

/** Return a token's colour as the theme resolves it, perhaps fainter: a canvas does not know the page's variables. */
function colour(name, share = 1) {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(--${name})`;
  const [red, green, blue] = getComputedStyle(probe).color.match(/[\d.]+/g);
  probe.remove();
  return `rgba(${red}, ${green}, ${blue}, ${share})`;
}

function options(series, width, height) {
  const grid = { stroke: colour("line"), width: 1 };
  const axis = { stroke: colour("muted"), grid, ticks: grid, font: "11px system-ui", size: 42 };
  return {
    width, height, legend: { show: false }, cursor: { drag: { x: false, y: false } }, padding: [8, 8, 0, 0],
    scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 5)] } },
    axes: [{ ...axis, size: 28, space: 70, values: (_, all) => all.map((one) => (all[all.length - 1] - all[0] > 600 ? clock(one).replace(/:\d\d(?=\s|$)/, "") : clock(one))) }, { ...axis, values: (_, all) => all.map(short) }],
    series: [{}, ...series.map((one) => ({ label: one.name, stroke: colour(one.colour), width: 1.5, fill: one.fill && colour(one.colour, 0.14), points: { show: false } }))],
  };
}

/** `times` are seconds; `series` are {name, colour, values}. */
export function Chart({ title, times, series, height = 150, every = 30 }) {
  const box = useRef();
  const chart = useRef();
  const look = useStore(theme);
  const names = series.map((one) => one.name).join();
  useEffect(() => {
    const place = box.current;
    if (!place) return undefined;
    const make = () => {
      chart.current?.destroy();
      chart.current = new uPlot(options(series, place.clientWidth, height), [times, ...series.map((one) => one.values)], place);
    };
    make();
    const resized = new ResizeObserver(() => chart.current?.setSize({ width: place.clientWidth, height }));
    resized.observe(place);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", make);
    return () => {
      resized.disconnect();
      dark.removeEventListener("change", make);
      chart.current?.destroy();
      chart.current = null;
    };
  }, [names, height, look]);
  useEffect(() => chart.current?.setData([times, ...series.map((one) => one.values)]), [times]);
  const last = times.length - 1;
  const rows = times.map((_, place) => place).filter((place) => (last - place) % every === 0).reverse().slice(0, 12);
  return html`<figure class="chart">
    <figcaption>${title} <span class="keys">${series.map((one) => html`<span class="key"><i class=${one.colour} />${one.name}</span>`)}</span></figcaption>
    <div ref=${box} aria-hidden="true" class="canvas" />
    <details><summary>As a table</summary><table><thead><tr><th scope="col">Time</th>${series.map((one) => html`<th scope="col" class="num">${one.name}</th>`)}</tr></thead>
      <tbody>${rows.map((place) => html`<tr><th scope="row">${clock(times[place])}</th>${series.map((one) => html`<td class="num">${rate(one.values[place])}</td>`)}</tr>`)}</tbody></table></details>
  </figure>`;
}
