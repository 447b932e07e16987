"""A search tree as HTML, a page or a piece of a notebook: nothing is loaded from anywhere, everything in it is escaped."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from structdecode.core.results import Result
from structdecode.core.trace import Trace
from structdecode.core.types import Candidate

_COLOURS = "--line: #8884; --kept: #2a9d5c; --cut: #b0643a;"
_TREE_RULES = """
details { border-left: 3px solid var(--line); margin: .4rem 0 .4rem .6rem; padding-left: .8rem; }
details.kept { border-color: var(--kept); } details.cut { border-color: var(--cut); }
summary { cursor: pointer; overflow-wrap: anywhere; } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
.note { opacity: .75; font-size: .9em; } .best { font-weight: 600; }
"""
TREE_STYLE = f"\n:root {{ color-scheme: light dark; {_COLOURS} }}{_TREE_RULES}"
"""What `search_tree` needs to be seen."""

_STYLE = f"""{TREE_STYLE}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: .5rem 0 1.5rem; }}
td, th {{ border: 1px solid var(--line); padding: .2rem .6rem; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
"""


_FRAGMENT = Environment(autoescape=True).from_string(
    """<div class="structdecode"><style>.structdecode { {{ colours }} {{ rules }} }</style>
{%- for picture in pictures %}<img alt="" src="data:image/png;base64,{{ picture }}">{% endfor %}
{%- for text in lines %}<p class="{{ 'best' if loop.first else 'note' }}">{{ text }}</p>{% endfor %}
{%- for stage, text in stages.items() %}<p><b>{{ stage }}</b> {{ text }}</p>{% endfor %}
{{- tree }}</div>"""
)
"""A piece of another page: its rules are nested, so that they hold inside of it alone."""


def _fragment(
    lines: Sequence[str], *, pictures: Sequence[bytes] = (), stages: Mapping[str, str] | None = None, tree: str = ""
) -> str:
    return _FRAGMENT.render(
        colours=_COLOURS, rules=Markup(_TREE_RULES), pictures=[base64.b64encode(png).decode() for png in pictures],
        lines=lines, stages=stages or {}, tree=Markup(tree),
    )  # fmt: skip


def result_fragment(result: Result) -> str:
    """For a notebook: the pictures, the answer and the search tree."""
    lines = [f"Answer: {result.answer or '(none)'}", repr(result), *result.warnings]
    tree = search_tree(result.trace.events)
    return _fragment(lines, pictures=result.thumbnails, tree=tree)


def trace_fragment(trace: Trace) -> str:
    """For a notebook: the question and the search tree."""
    return _fragment([str(trace.header.get("question", "")), repr(trace)], tree=search_tree(trace.events))


def candidate_fragment(candidate: Candidate) -> str:
    """For a notebook: the stages."""
    return _fragment([repr(candidate)], stages=candidate.stages)


def render(trace: Trace) -> str:
    """The whole page."""
    result = _result(trace.events)
    facts = "".join(
        f"<tr><td>{escape(str(key))}</td><td style='text-align:left'>{escape(str(value))}</td></tr>"
        for key, value in trace.header.items()
    )
    failures = "".join(
        f"<p>Verifier failed: {escape(str(e['verifier']))}: {escape(str(e['error']))}</p>" for e in trace.failures
    )
    stopped = f"<p>Stopped by the budget: {escape(str(result['stopped_by']))}</p>" if result.get("stopped_by") else ""
    title = escape(str(trace.header.get("question", "search")))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p class='best'>Answer: {escape(str(result.get('answer') or '(none)'))}</p>{stopped}{failures}"
        f"<h2>Search tree</h2>{search_tree(trace.events)}<h2>Cost</h2>{_cost(result)}<h2>Run</h2><table>{facts}</table></body></html>\n"
    )


def search_tree(events: Sequence[Mapping[str, Any]]) -> str:
    """The tree alone, for a page that has `TREE_STYLE`: nested ``<details>``, open along the way to the answer."""
    return _Tree(events, _result(events)).html()


def _result(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((e for e in reversed(events) if e["kind"] == "result"), {})


class _Tree:
    """Candidates by parent, with the last scores each was given."""

    def __init__(self, events: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        self.children: dict[tuple[int, ...], list[Mapping[str, Any]]] = defaultdict(list)
        self.scores: dict[tuple[int, ...], list[tuple[str, float | None, str, float | None]]] = defaultdict(list)
        ranking = result.get("ranking") or []
        self.best: tuple[int, ...] = tuple(ranking[0]) if ranking else ()
        for event in events:
            if event["kind"] == "candidate":
                self.children[tuple(event["path"][:-1])].append(event)
            elif event["kind"] == "score":
                top = max((v for v in event["values"] if v is not None), default=None)
                for path, value, reason in zip(event["paths"], event["values"], event["reasons"], strict=True):
                    self.scores[tuple(path)].append((event["verifier"], value, reason, top))

    def html(self) -> str:
        """Depth first without recursion: a chain of candidates may be longer than Python's stack."""
        parts, open_ = [], [iter(self.children[()])]
        while open_:
            event = next(open_[-1], None)
            if event is None:
                open_.pop()
                parts.append("</details>" if open_ else "")
                continue
            parts.append(self._node(event))
            open_.append(iter(self.children[tuple(event["path"])]))
        return "".join(parts)

    def _node(self, event: Mapping[str, Any]) -> str:
        """One candidate, open: what goes on from it comes next, then the end tag."""
        path = tuple(event["path"])
        kept = path == self.best[: len(path)]
        fate = self._fate(path, event, kept)
        scores = "".join(
            f"<div class='note'>{escape(str(name))}: {'unscored' if value is None else f'{value:.4f}'}"
            f"{f' ({escape(str(reason))})' if reason else ''}</div>"
            for name, value, reason, _ in self.scores[path]
        )
        facts = (
            f"path {escape('.'.join(map(str, path)))} · {escape(str(event['finish_reason']))} · {int(event['tokens'])} tokens · "
            f"log-prob {float(event['log_prob']):.2f}"
            + (f" · seed {int(event['seed'])}" if "seed" in event else "")  # a comparison's traces leave it out
        )
        return (
            f"<details class='{'kept' if kept else 'cut'}'{' open' if kept else ''}><summary>"
            f"<b>{escape(str(event['stage']))}</b> {escape(str(event['text'])[:140])} <span class='note'>{fate}</span>"
            f"</summary><pre>{escape(str(event['text']))}</pre><div class='note'>{facts}</div>{scores}"
        )

    def _fate(self, path: tuple[int, ...], event: Mapping[str, Any], kept: bool) -> str:
        """What became of a candidate, and why."""
        if path == self.best:
            return "the answer"
        if kept:
            behind = self._behind(path)
            # with several beams: the best of the round was kept too, and lost later
            return f"kept: {behind:.4f} below the best of its round, but a continuation of it won" if behind else "kept"
        if self.children[path]:
            return "kept, but no continuation of it won" if self.scores[path] else "kept"
        if event["finish_reason"] == "invalid":
            return "pruned: malformed"
        if not self.scores[path]:
            return "not chosen: never scored"
        _, value, reason, _ = self.scores[path][-1]
        if value is None:
            return f"pruned: unscored ({escape(str(reason))})"
        behind = self._behind(path)
        return f"pruned: {behind:.4f} below the best of its round" if behind else "pruned: a tie, drawn later"

    def _behind(self, path: tuple[int, ...]) -> float:
        """By how much its last score is below the highest of that round; 0 where it is not, or has none."""
        value, top = self.scores[path][-1][1::2] if self.scores[path] else (None, None)
        return 0.0 if value is None or top is None else top - value


def _cost(result: Mapping[str, Any]) -> str:
    parts = {**(result.get("usage_by_part") or {}), "together": result.get("usage") or {}}
    names = list(parts["together"])
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(str(part))}</td>" + "".join(f"<td>{usage.get(n, 0):g}</td>" for n in names) + "</tr>"
        for part, usage in parts.items()
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"
