// The theme: the system's light or dark, unless the reader chose one in this browser.
import { makeStore } from "./store.js";

const KEY = "kurir-theme";
const CHOICES = ["auto", "light", "dark"];

const stored = () => {
  try {
    const found = localStorage.getItem(KEY);
    return CHOICES.includes(found) ? found : "auto";
  } catch {
    // storage may be forbidden
    return "auto";
  }
};

export const theme = makeStore(stored());

function apply() {
  document.documentElement.dataset.theme = theme.get();
}

export function nextTheme() {
  theme.set((now) => CHOICES[(CHOICES.indexOf(now) + 1) % CHOICES.length]);
  apply();
  try {
    localStorage.setItem(KEY, theme.get());
  } catch {
    // then it lasts until the page is closed
  }
}

apply();
