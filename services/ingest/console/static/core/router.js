// The router: the state of every page is its URL, so that a link, a reload and the back button show the same again.
import { makeStore, useStore } from "./store.js";

const BASE = "/console";

const read = () => ({
  path: location.pathname.slice(BASE.length) || "/",
  query: Object.fromEntries(new URLSearchParams(location.search)),
});
const place = makeStore(read());

export const usePlace = () => useStore(place);

/** Return the URL of a page; empty values of the query are left out. */
export function at(path, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(kept).toString();
  return BASE + path + (text ? `?${text}` : "");
}

export function go(url, { replace = false } = {}) {
  if (url === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", url);
  place.set(read());
}

/** Return the query of this page, and a function that changes some of its values. */
export function useQuery() {
  const { path, query } = usePlace();
  const change = (changes, options) => go(at(path, { ...query, ...changes }), options);
  return [query, change];
}

/**
 * Return the filters of a list, which are in the URL under these names: `wanted` has those that are set, `page` is the
 * query of the shown page. `set(name)` changes one, and `clear` all; both begin with the first page.
 */
export function useFilters(names) {
  const [query, change] = useQuery();
  const wanted = Object.fromEntries(names.filter((name) => query[name]).map((name) => [name, query[name]]));
  return {
    query,
    wanted,
    filtered: Object.keys(wanted).length > 0,
    page: new URLSearchParams({ ...wanted, ...(query.cursor && { cursor: query.cursor }), limit: "50" }),
    set: (name) => (value) => change({ [name]: value, cursor: "" }, { replace: true }),
    clear: () => change(Object.fromEntries([...names, "cursor"].map((name) => [name, ""]))),
  };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    // a "%" that encodes nothing
    return text;
  }
}

/** Match a path with a pattern such as "/blasts/:id"; return its values, or null. */
export function match(pattern, path) {
  const names = [];
  const source = pattern.replace(/:(\w+)/g, (_, name) => {
    names.push(name);
    return "([^/]+)";
  });
  const found = new RegExp(`^${source}/?$`).exec(path);
  return found && Object.fromEntries(names.map((name, index) => [name, decoded(found[index + 1])]));
}

export function startRouter() {
  addEventListener("popstate", () => place.set(read()));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    if (link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (!link.pathname.startsWith(`${BASE}/`)) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}
