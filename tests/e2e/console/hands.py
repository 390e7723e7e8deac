"""Two ways to use a page: with the mouse, and with the keyboard alone. Every journey is walked with both.

A hand reaches only what a person reaches: the open dialog, or the page where none is open.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Protocol

from playwright.sync_api import FilePayload, Locator, Page

_REACHABLE = "dialog[open], body:not(:has(dialog[open]))"
_PATIENCE_S = 60.0
_MOST_STOPS = 150


class Hand(Protocol):
    """What a person does with a page; controls are named by the beginning of their text, fields by their label."""

    def press(self, name: str) -> None:
        """Press a button or follow a link."""

    def fill(self, label: str, text: str) -> None:
        """Replace the text of a field."""

    def choose(self, label: str, option: str) -> None:
        """Choose an option of a list by the beginning of its text."""

    def toggle(self, label: str) -> None:
        """Turn a box on or off."""

    def put_file(self, label: str, file: FilePayload) -> None:
        """Choose a file."""

    def set_time(self, label: str, moment: datetime) -> None:
        """Fill in a date and a time."""


class Mouse:
    """Clicks and types."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def _field(self, label: str) -> Locator:
        return self._page.locator(_REACHABLE).get_by_label(label, exact=True).first

    def press(self, name: str) -> None:
        """Click it."""
        named = re.compile(rf"^\s*{re.escape(name)}")
        self._page.locator(_REACHABLE).locator(
            "button:visible, a:visible, summary:visible", has_text=named
        ).first.click()

    def fill(self, label: str, text: str) -> None:
        """Type over it."""
        self._field(label).fill(text)

    def choose(self, label: str, option: str) -> None:
        """Pick it from the list."""
        field = self._field(label)
        texts = field.locator("option").all_inner_texts()
        field.select_option(label=next(one for one in texts if one.startswith(option)))

    def toggle(self, label: str) -> None:
        """Click it."""
        self._field(label).click()

    def put_file(self, label: str, file: FilePayload) -> None:
        """Pick it."""
        self._field(label).set_input_files(file)

    def set_time(self, label: str, moment: datetime) -> None:
        """Type it."""
        self._field(label).fill(moment.strftime("%Y-%m-%dT%H:%M"))


class Keyboard:
    """Moves with the Tab key and never touches the mouse."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._keys = page.keyboard
        # from the start: the browser is told without waiting for its answer
        page.on("filechooser", lambda _: None)

    def reach(self, name: str, *, field: bool = False) -> None:
        """Move the focus to a control whose name begins like this, or to the field with exactly this label."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            for _ in range(_MOST_STOPS):
                self._keys.press("Tab")
                kind, found = self._page.evaluate(_FOCUSED)
                if (kind == "field") == field and (found == name if field else found.startswith(name)):
                    return
        raise AssertionError(f"the Tab key does not reach {name!r}")

    def press(self, name: str) -> None:
        """Press Enter on it."""
        self.reach(name)
        self._keys.press("Enter")

    def fill(self, label: str, text: str) -> None:
        """Type over it."""
        self.reach(label, field=True)
        self._keys.press("Control+A")
        self._keys.insert_text(text) if text else self._keys.press("Delete")

    def choose(self, label: str, option: str) -> None:
        """Move through the list with the arrows."""
        self.reach(label, field=True)
        self._keys.press("Home")
        for _ in range(50):
            if self._page.evaluate("document.activeElement.selectedOptions[0].text").startswith(option):
                return
            self._keys.press("ArrowDown")
        raise AssertionError(f"{label!r} has no option {option!r}")

    def toggle(self, label: str) -> None:
        """Press Space on it."""
        self.reach(label, field=True)
        self._keys.press("Space")

    def put_file(self, label: str, file: FilePayload) -> None:
        """Open the browser's own dialog with Enter."""
        self.reach(label, field=True)
        with self._page.expect_file_chooser() as chooser:
            self._keys.press("Enter")
        chooser.value.set_files(file)

    def set_time(self, label: str, moment: datetime) -> None:
        """Type its parts, in the order in which the browser shows them."""
        self.reach(label, field=True)
        # the focus may be in any of its parts
        for _ in range(6):
            self._keys.press("ArrowLeft")
        self._keys.type(moment.strftime("%m%d%Y%I%M%p"))


_FOCUSED = """() => {
  const one = document.activeElement;
  const field = one.matches("input, select, textarea");
  const name = one.getAttribute("aria-label") || (field ? one.labels[0]?.textContent : one.textContent) || "";
  return [field ? "field" : "control", name.trim()];
}"""
