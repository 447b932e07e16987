"""The trace page, and what a notebook shows of a result, a trace and a candidate."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial

from markupsafe import Markup

from structdecode.core.results import Result
from structdecode.core.templating import render as render_template
from structdecode.core.templating import source
from structdecode.core.trace import Trace
from structdecode.core.types import Candidate
from structdecode.core.view.drawing import MOST, Drawing
from structdecode.core.view.tree import Event, SearchTree, result_event

_template = partial(render_template, __package__)


def render(trace: Trace, thumbnails: Sequence[bytes] = ()) -> str:
    """The whole page of a trace: one file that loads nothing and runs no script.

    Args:
        thumbnails: PNGs of the pictures that were asked about; a trace has none in it.
    """
    result = result_event(trace.events)
    parts = {**(result.get("usage_by_part") or {}), "together": result.get("usage") or {}}
    page = _template(
        "trace.html", title=str(trace.header.get("question", "search")), header=trace.header, result=result,
        pictures=list(map(data_url, thumbnails)), warnings=trace.warnings, failures=trace.failures,
        tree=search_tree(trace.events, anchors=True), parts=parts, counts=list(parts["together"]),
        has_tokens=any("token_texts" in event for event in trace.events),
    )  # fmt: skip
    return str(page)  # no Markup, which escapes what a caller joins to it


def search_tree(events: Sequence[Event], *, anchors: bool = False) -> Markup:
    """The tree alone, for a page that has `tree_style`: its drawing, then nested ``<details>``, open along the way to the
    answer. With ``anchors`` a box of the drawing leads to its text: for one tree a page.
    """
    tree = SearchTree(events)
    drawing = Drawing(tree) if 0 < len(tree) <= MOST else None
    return _template("tree.html", walk=tree.walk(), drawing=drawing, anchors=anchors)


def tree_style() -> Markup:
    """The style sheet that `search_tree` needs to be seen."""
    return Markup(":root {{ color-scheme: light dark; {} }}\n{}").format(
        source(__package__, "colours.css"), source(__package__, "tree.css")
    )


def result_fragment(result: Result) -> str:
    """For a notebook: the pictures, the answer and the search tree."""
    lines = [f"Answer: {result.answer or '(none)'}", repr(result), *result.warnings]
    return _fragment(lines, pictures=result.thumbnails, tree=search_tree(result.trace.events))


def trace_fragment(trace: Trace) -> str:
    """For a notebook: the question and the search tree."""
    return _fragment([str(trace.header.get("question", "")), repr(trace)], tree=search_tree(trace.events))


def candidate_fragment(candidate: Candidate) -> str:
    """For a notebook: the stages."""
    return _fragment([repr(candidate)], stages=candidate.stages)


def _fragment(
    lines: Sequence[str], *, pictures: Sequence[bytes] = (), stages: Mapping[str, str] | None = None, tree: str = ""
) -> str:
    piece = _template(
        "fragment.html", pictures=list(map(data_url, pictures)), lines=lines, stages=stages or {}, tree=tree
    )
    return str(piece).strip()


def data_url(data: bytes, kind: str = "png") -> str:
    """A picture's bytes as a page has them in itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
