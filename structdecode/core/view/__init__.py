"""A search tree as HTML, a page or a piece of a notebook: nothing is loaded from anywhere, everything in it is escaped."""

from structdecode.core.view.page import (
    candidate_fragment,
    data_url,
    render,
    result_fragment,
    search_tree,
    trace_fragment,
    tree_style,
)

__all__ = [
    "candidate_fragment",
    "data_url",
    "render",
    "result_fragment",
    "search_tree",
    "trace_fragment",
    "tree_style",
]
