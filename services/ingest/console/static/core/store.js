// Stores: values that several components show. A component that uses one is drawn again when it changes.
import { useLayoutEffect, useReducer } from "./view.js";

export function makeStore(value) {
  const watchers = new Set();
  return {
    get: () => value,
    set(next) {
      value = typeof next === "function" ? next(value) : next;
      for (const watch of [...watchers]) watch();
    },
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  };
}

export function useStore(store) {
  const [, redraw] = useReducer((turn) => turn + 1, 0);
  // before the next frame, or a change until then would be missed
  useLayoutEffect(() => store.watch(redraw), [store]);
  return store.get();
}
