"""Rendering: templates are compiled once per blast and filled in once per recipient; neither is trusted.

    template = compile_template(blast.template)          # RenderError with part and line
    values = job_values(blast, job, unsubscribe_url)     # or merge_variables(template, globals, contact)
    rendered = template.render(values)                   # subject, html, text; RenderError names the variable
    components = whatsapp_components(blast.template, values)

The language is a subset of jinja2's (see `syntax`) and runs in jinja2's sandbox. A missing variable is an error; only
html is escaped. Counting bounds time, loops and output (see `budget`).
"""

from __future__ import annotations

from shared.rendering.compiled import CompiledTemplate, Rendered, compile_template, whatsapp_components
from shared.rendering.errors import RenderError
from shared.rendering.plaintext import html_to_text
from shared.rendering.variables import BUILT_IN, BlastValues, Contact, job_values, merge_variables

__all__ = [
    "BUILT_IN",
    "BlastValues",
    "CompiledTemplate",
    "Contact",
    "RenderError",
    "Rendered",
    "compile_template",
    "html_to_text",
    "job_values",
    "merge_variables",
    "whatsapp_components",
]
