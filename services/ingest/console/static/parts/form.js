// Forms: labelled fields with their problem beside them, as the API reports it by the field's name.
import { html, useEffect, useId, useRef, useState } from "../core/view.js";
import { Problem } from "./basics.js";

/** A field. `problem` is the text of what is wrong; `hint` says what is expected. */
export function Field({ label, value, onInput, problem, hint, kind = "text", options, wide, ...more }) {
  const id = useId();
  const said = [problem && `${id}-problem`, hint && `${id}-hint`].filter(Boolean).join(" ") || null;
  const shared = { id, "aria-invalid": problem ? "true" : null, "aria-describedby": said, ...more };
  const input = (event) => onInput(kind === "check" ? event.target.checked : event.target.value);
  let control;
  if (options) {
    control = html`<select ...${shared} value=${value} onChange=${input}>${options.map(([key, name]) => html`<option value=${key} selected=${key === value}>${name}</option>`)}</select>`;
  } else if (kind === "area") {
    control = html`<textarea ...${shared} value=${value} onInput=${input} />`;
  } else if (kind === "check") {
    control = html`<input type="checkbox" ...${shared} checked=${value} onChange=${input} />`;
  } else {
    // without the end of a time, the browser takes years of six digits
    control = html`<input type=${kind} max="9999-12-31T23:59" ...${shared} value=${value} onInput=${input} />`;
  }
  return html`<div class="field ${kind} ${wide ? "wide" : ""}"><label for=${id}>${label}</label>${control}
    ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
    ${problem && html`<p class="field-problem" id=${`${id}-problem`}>${problem}</p>`}</div>`;
}

/** The filters of a list. */
export const Filters = ({ label, children }) => html`<form class="filters" role="search" aria-label=${label} onSubmit=${(event) => event.preventDefault()}>${children}</form>`;

/** A text of a filter: it takes effect a moment after the last key, with Enter, or when the focus leaves it. */
export function FilterField({ value = "", onInput, ...more }) {
  const [text, setText] = useState(value);
  // the other filters may change before the timer ends, and the text while its beginning takes effect
  const latest = useRef();
  latest.current = onInput;
  const given = useRef(value);
  const give = () => latest.current(given.current = text.trim());
  useEffect(() => { if (value !== given.current) setText(given.current = value); }, [value]);
  useEffect(() => {
    if (text.trim() === given.current) return undefined;
    const timer = setTimeout(give, 400);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<${Field} kind="search" value=${text} onInput=${setText} onChange=${give} ...${more} />`;
}

/** Return the message of the first problem with a field, "" without one. */
export const problemOf = (problem, field) => problem?.problems?.find((one) => one.field === field)?.message || "";

/**
 * A form that does something: it waits for it, and shows what was wrong. A function that `act` returns is called unless
 * the form was closed meanwhile. `children(problem)` draws the fields; `shown` are the fields that show their own problems.
 * Without `action` nobody can submit it.
 */
export function Form({ act, action, danger, before, shown = [], children, disabled }) {
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const submit = async (event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setProblem(null);
    try {
      const next = await act();
      if (alive.current && next) next();
    } catch (error) {
      if (alive.current) setProblem(error);
    } finally {
      if (alive.current) setBusy(false);
    }
  };
  const beside = problem?.problems?.length > 0 && problem.problems.every((one) => shown.includes(one.field));
  return html`<form onSubmit=${submit} novalidate>${children?.(problem)}
    ${!beside && html`<${Problem} problem=${problem} />`}
    <div class="form-end">${before}${action && html`<button type="submit" class=${danger ? "danger" : "main"} aria-busy=${busy} disabled=${disabled}>${action}</button>`}</div></form>`;
}
