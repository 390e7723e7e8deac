// The API: the public calls and nothing else, as any other client makes them, with the session's cookie.
import { makeStore, useStore } from "./store.js";
import { useEffect, useReducer, useRef, useState } from "./view.js";

/** An answer that says no; `problems` are those of single fields. */
export class ApiProblem extends Error {
  constructor(status, body) {
    super(body.message || "The server did not answer as expected.");
    this.status = status;
    this.code = body.code || "";
    this.problems = body.errors || [];
    this.body = body;
  }
}

export const session = makeStore(null);
export const useSession = () => useStore(session);

/** Return whether the signed-in key may make calls that need this scope. */
export const can = (scope) => (session.get()?.scopes || []).includes(scope);

async function answer(response) {
  const type = response.headers.get("Content-Type") || "";
  if (!type.startsWith("application/json")) {
    if (response.ok) return response;
    throw new ApiProblem(response.status, { message: `The server answered ${response.status}.` });
  }
  const body = await response.json();
  if (response.ok) return body;
  if (response.status === 401) session.set((now) => (now ? { ...now, signedIn: false } : now));
  throw new ApiProblem(response.status, body);
}

/** Make a call; a plain object becomes a JSON body, everything else is sent as it is. */
export async function call(method, path, body, options = {}) {
  const headers = { ...options.headers };
  const plain = body !== undefined && !(body instanceof Blob) && !(body instanceof FormData);
  if (plain) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: plain ? JSON.stringify(body) : body, signal: options.signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiProblem(0, { code: "NO_ANSWER", message: "The server does not answer. It may be restarting." });
  }
  return answer(response);
}

/** Fail if a file has changed since it was opened: the browser reads it no more, as if the server did not answer. */
export const mustBeSame = (file) => file.slice(0, 1).arrayBuffer().catch(() => {
  throw new ApiProblem(0, { message: "This file has changed since it was opened. Open it again." });
});

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body, options) => call("POST", path, body, options);

export async function loadSession() {
  const found = await get("/console/session");
  // an answer that nobody is signed in has no key: the page remembers whose it is
  session.set((now) => ({ key: now?.key, ...found }));
}

export async function signIn(apiKey) {
  session.set(await post("/console/session", { apiKey }));
}

export async function signOut() {
  await call("DELETE", "/console/session");
  session.set((now) => ({ ...now, signedIn: false, scopes: [], key: "" }));
}

/** Return a function that begins a turn, and returns one that tells whether no other has begun since. */
export function useTurns() {
  const turn = useRef(0);
  return () => {
    const mine = turn.current += 1;
    return () => turn.current === mine;
  };
}

/**
 * Read a path, again whenever it changes or `every` seconds have passed, and return {data, sentAt, problem, loading,
 * reload}; `sentAt` is when the data was asked for. While the next answer is awaited the old one stays, so that a page
 * does not flicker. An answer that takes longer than `every` seconds is awaited, not asked for again. While nobody is
 * signed in nothing is read.
 */
export function useData(path, { every = 0 } = {}) {
  const [state, setState] = useState({ data: undefined, problem: null, loading: true });
  const [turn, reload] = useReducer((count) => count + 1, 0);
  const reading = useRef(null);
  const { signedIn } = useSession();
  useEffect(() => {
    if (!path || !signedIn) return undefined;
    const stop = new AbortController();
    reading.current = stop;
    const sentAt = performance.now();
    setState((old) => ({ ...old, loading: true }));
    // the log of API calls leaves out what only asks again
    get(path, { signal: stop.signal, headers: turn ? { "X-Kurir-Refresh": "1" } : {} }).then(
      (data) => ({ data, sentAt, problem: null }),
      (problem) => ({ problem }),
    ).then((next) => {
      if (stop.signal.aborted) return;
      reading.current = null;
      setState((old) => ({ ...old, ...next, loading: false }));
    });
    return () => stop.abort();
  }, [path, turn, signedIn]);
  useEffect(() => {
    if (!every) return undefined;
    const timer = setInterval(() => document.hidden || reading.current || reload(), every * 1000);
    return () => clearInterval(timer);
  }, [every]);
  return { ...state, reload };
}
