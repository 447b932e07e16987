"""The one self-contained page: nothing is loaded from anywhere, everything of the run in it is escaped, and the browser
runs no script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import partial

from structdecode.core.templating import render, source
from structdecode.core.view import tree_style
from structdecode.evaluation.report.section import Section

template = partial(render, __package__)
"""A template of the report's, with a context, as HTML."""


def html(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The page; ``lead``: paragraphs before the first section."""
    script = source(__package__, "report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # as a Content-Security-Policy has it
    page = template(
        "report.html", title=title, lead=lead, sections=sections, tree_style=tree_style(), script=script, digest=digest
    )
    return str(page)
