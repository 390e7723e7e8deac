// The view: Preact with htm's templates, so that every module imports its tools from one place.
import { createElement, render } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { useEffect, useId, useLayoutEffect, useReducer, useRef, useState } from "../vendor/hooks.js";
export { render };
export const html = htm.bind(createElement);
