"""The page escapes messages and has a strict content security policy."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

from services.sandbox.mailbox import Kept, Message
from services.sandbox.page import PAGE_POLICY, render_page


def test_everything_from_outside_is_escaped() -> None:
    """No field of a message can become markup."""
    bad = '<script>alert(1)</script>"&'
    page = render_page([Kept(1, 0, Message(bad, bad, bad, bad, bad))], 1)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;") == 4


def test_the_policy_allows_the_pages_own_style_and_nothing_else() -> None:
    """The policy has the hash of the page's own style."""
    match = re.search(r"<style>(.*?)</style>", render_page([], 0), re.DOTALL)
    assert match
    digest = b64encode(hashlib.sha256(match[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in PAGE_POLICY
