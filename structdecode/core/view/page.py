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
from structdecode.core.view.tree import Event, SearchTree, result_event

_template = partial(render_template, __package__)


def render(trace: Trace) -> str:
    """The whole page of a trace: one file that loads nothing and runs no script."""
    result = result_event(trace.events)
    parts = {**(result.get("usage_by_part") or {}), "together": result.get("usage") or {}}
    return _template(
        "trace.html", title=str(trace.header.get("question", "search")), header=trace.header, result=result,
        failures=trace.failures, tree=search_tree(trace.events), parts=parts, counts=list(parts["together"]),
    )  # fmt: skip


def search_tree(events: Sequence[Event]) -> Markup:
    """The tree alone, for a page that has `tree_style`: nested ``<details>``, open along the way to the answer."""
    return _template("tree.html", walk=SearchTree(events).walk())


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
    urls = [data_url(png) for png in pictures]
    return _template("fragment.html", pictures=urls, lines=lines, stages=stages or {}, tree=tree).strip()


def data_url(data: bytes, kind: str = "png") -> str:
    """A picture's bytes as a page has them in itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
