"""Questions that one cell gets and another loses: picture, question, both answers and both search trees.

Everything that is shown lies in the page once, as ``<template>`` elements that the browser copies from when two cells
are chosen; so an answer that many pairs share costs its size once. Search trees are long and repeat themselves: they
are packed by zlib to a tenth and unpacked by the browser when one is opened. ``ROOM`` bounds them all together.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import zlib
from dataclasses import dataclass, field
from html import escape
from typing import Any

from structdecode.core.view import search_tree
from structdecode.evaluation.report.results import CellResult, Results
from structdecode.evaluation.report.section import Block, Column, Raw, Section, Table, Words
from structdecode.records.types import Record

PER_PAIR = 12
MOST = 300
"""Rows of the table in the page; `lost` has the families' best cells first."""
ROOM = 2_000_000
"""Bytes for all examples together; the page stays under 4 MB."""
TREE_ROOM = 20_000
"""Bytes for one packed search tree: the texts in it are cut shorter until it fits."""
PICTURE_ROOM = 24_000
"""Bytes of a picture that is shown as it is; larger ones are made smaller."""


@dataclass
class Shelf:
    """The templates that are in the page, and how much room is left."""

    results: Results
    room: int = ROOM
    html: dict[str, str] = field(default_factory=dict)

    def has(self, cell: CellResult, question: str) -> bool:
        return _key(self.results, cell, question) in self.html

    def put(self, name: str, content: str) -> None:
        """Counts it against the room; what is there already costs nothing."""
        if name not in self.html:
            self.html[name] = content
            self.room -= len(content.encode()) + len(name) + 40

    def add(self, a: CellResult, b: CellResult, question: str) -> list[str]:
        """Puts one example in; the names of its three templates."""
        names = [f"q{self.results.places[question]}"]
        traces = [self.results.run.trace(cell.by_id[question].key) for cell in (a, b)]
        if names[0] not in self.html:
            self.put(names[0], question_html(self.results, question, next((t for t in traces if t), None)))
        for cell, trace in zip((a, b), traces, strict=True):
            key = _key(self.results, cell, question)
            if key not in self.html:
                self.put(key, answer_html(cell.by_id[question], trace))
            names.append(key)
        return names


def _key(results: Results, cell: CellResult, question: str) -> str:
    return f"a{list(results.cells).index(cell.name)}-{results.places[question]}"


def section(results: Results) -> Section:
    pairs = lost(results)
    if not any(pairs.values()):
        nothing = Words("No two cells disagree on a question.")
        return Section("disagreements", "Questions that one gets and another loses", (nothing,))
    chosen = _names(results)
    rows = tuple({"a": a, "b": b, "count": len(found)} for (a, b), found in pairs.items() if found)
    columns = (Column("a", "A gets", text=True), Column("b", "B loses", text=True), Column("count", "questions"))
    first = sorted({cell.seeds[0] for cell in results.cells.values() if len(cell.seeds) > 1})
    browser, shown = _browser(results, pairs, chosen)
    words = (
        f"All cells in pairs. In the page at most {PER_PAIR} questions a pair, {shown} in all, as many as fit into it, those "
        "of the families' best cells first; the counts are of all of them. In a tree, only scores of one round compare. A "
        "search with several beams keeps the best of a round and some below it: where a continuation of a lower one won, "
        "the tree says so." + (f" Of several seeds, seed {' and '.join(map(str, first))} is shown." if first else "")
    )
    blocks: list[Block] = [
        Words(words),
        Raw(browser, "The page `report.html` shows them with picture, both answers and both search trees."),
        Table("disagreements", columns, rows, filtered=True, most=MOST),
    ]
    return Section("disagreements", "Questions that one gets and another loses", tuple(blocks))


def lost(results: Results) -> dict[tuple[str, str], list[str]]:
    """By ordered pair (A, B) of cells: ids that A has right and B wrong, in the data's order; the best cells' first.

    Of several seeds it is the first that counts, since its answers are what is shown.
    """
    names = _names(results)
    best = {cell.name for cell in results.best.values()}
    right = {name: {i: record.correct for i, record in results.cells[name].by_id.items()} for name in names}
    order = results.places.__getitem__
    return {
        (a, b): sorted((i for i, ok in right[a].items() if ok and right[b].get(i) is False), key=order)
        for a, b in sorted(itertools.permutations(names, 2), key=lambda pair: not best.issuperset(pair))
    }


def _names(results: Results) -> list[str]:
    """All cells, the best of each family first."""
    best = [cell.name for cell in results.best.values()]
    return [*best, *(name for name in results.cells if name not in best)]


def _browser(results: Results, pairs: dict[tuple[str, str], list[str]], chosen: list[str]) -> tuple[str, int]:
    """The browser's HTML, and how many examples it has."""
    shelf = Shelf(results)
    examples = pick(results, pairs, shelf)
    index = {
        "cells": chosen,
        "pairs": {
            f"{chosen.index(a)},{chosen.index(b)}": {"total": len(found), "items": examples[a, b]}
            for (a, b), found in pairs.items()
            if found
        },
    }
    data = json.dumps(index, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    options = "".join(f"<option>{escape(name)}</option>" for name in chosen)
    templates = "".join(f"<template id='{name}'>{content}</template>" for name, content in shelf.html.items())
    page = (
        "<noscript><p>Choosing a pair needs JavaScript; the table below has the counts.</p></noscript>"
        f"<form id='browser'><label>A gets <select name='a'>{options}</select></label> "
        f"<label>B loses <select name='b'>{options}</select></label> "
        "<button type='button' id='swap'>swap</button> "
        "<input type='search' id='words' placeholder='in question or answer …' aria-label='words in question or answer'>"
        f"</form><p id='found' class='note' role='status'></p><div id='examples'></div>"
        f"<script type='application/json' id='index'>{data}</script>{templates}"
    )
    return page, sum(map(len, examples.values()))


def pick(
    results: Results, pairs: dict[tuple[str, str], list[str]], shelf: Shelf
) -> dict[tuple[str, str], list[list[str]]]:
    """Up to `PER_PAIR` examples a pair while there is room: one for each pair, then a second one, and so on.

    Of a pair's questions the one is next whose trees are in the page already, else the one with the smallest trees.
    """
    left = {pair: list(found) for pair, found in pairs.items() if found}
    taken: dict[tuple[str, str], list[list[str]]] = {pair: [] for pair in pairs}
    best = {cell.name for cell in results.best.values()}
    first = {pair: found for pair, found in left.items() if best.issuperset(pair)}
    others = {pair: found for pair, found in left.items() if pair not in first}
    for group in [first] * PER_PAIR + [others] * PER_PAIR:
        for (a, b), questions in group.items():
            cells = results.cells[a], results.cells[b]
            if not questions or shelf.room <= 0:
                continue
            missing = [sum(cell.width for cell in cells if not shelf.has(cell, q)) for q in questions]
            question = questions.pop(missing.index(min(missing)))
            taken[a, b].append(shelf.add(*cells, question))
    return taken


# ------------------------------------------------------------------ one question, one answer


def question_html(results: Results, question: str, trace: dict[str, Any] | None) -> str:
    """Picture, text, options and reference."""
    known = results.run.questions.get(question, {})
    words = known.get("text") or (trace or {}).get("question") or question
    options = "".join(f"<li>{escape(str(k))}: {escape(str(v))}</li>" for k, v in (known.get("options") or {}).items())
    reference = " · ".join(map(str, known.get("answers") or ()))
    pictures = "".join(picture_html(results, digest) for digest in (trace or {}).get("images") or ())
    stages = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(text))}</dd>"
        for name, text in (known.get("stages") or {}).items()
    )
    more = f"<details><summary>reference stages</summary><dl>{stages}</dl></details>" if stages else ""
    return (
        f"{pictures}<div class='asked'><p class='best'>{escape(str(words))}</p>{f'<ul>{options}</ul>' if options else ''}"
        f"<p>Reference: <b>{escape(reference)}</b> <span class='note'>{escape(question)}</span></p>{more}</div>"
    )


def picture_html(results: Results, digest: str) -> str:
    path = results.run.picture(digest)
    if path is None:
        return ""
    data, kind = path.read_bytes(), "png"
    if len(data) > PICTURE_ROOM:
        data, kind = _smaller(data), "jpeg"
    return f"<img alt='the picture asked about' src='data:image/{kind};base64,{base64.b64encode(data).decode()}'>"


def _smaller(data: bytes) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((320, 320))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def answer_html(record: Record, trace: dict[str, Any] | None) -> str:
    """One cell's answer: the verdict, its stages, and the tree that it was found in."""
    sign = "right" if record.correct else "wrong"
    stages = "".join(
        f"<dt>{escape(name)}{' (differs from the reference)' if name in record.wrong_stages else ''}</dt>"
        f"<dd>{escape(_cut(text, 1200))}</dd>"
        for name, text in record.stages.items()
    )
    notes = [
        f"matched by {record.rule}: {record.extracted or 'nothing'}",
        *([f"stopped by {record.stopped_by}"] if record.stopped_by else []),
        *([f"not asked: {record.error}"] if record.error else []),
        *record.failures,
    ]
    return (
        f"<p class='{sign}'>{sign}: <b>{escape(_cut(record.answer, 400)) or '(no answer)'}</b></p><dl>{stages}</dl>"
        f"<p class='note'>{escape(' · '.join(notes))}</p>{tree_html(trace)}"
    )


def tree_html(trace: dict[str, Any] | None) -> str:
    """The search tree, its texts cut until it fits."""
    if trace is None:
        return "<p class='note'>no search tree was kept</p>"
    count = sum(event["kind"] == "candidate" for event in trace["events"])
    what = f"search tree, {count} span{'' if count == 1 else 's'}"
    for limit in (4000, 1000, 300, 100, 30):
        events = [_shorter(event, limit) for event in trace["events"]]
        packed = base64.b64encode(zlib.compress(search_tree(events).encode(), 9)).decode()
        if len(packed) <= TREE_ROOM:
            return f"<details class='tree' data-tree='{packed}'><summary>{what}</summary></details>"
    return f"<p class='note'>{what}: too large for this page; traces.jsonl has it</p>"


def _shorter(event: dict[str, Any], limit: int) -> dict[str, Any]:
    if event["kind"] == "candidate":
        return {**event, "text": _cut(event["text"], limit)}
    if event["kind"] == "score":
        return {**event, "reasons": [_cut(reason or "", min(limit, 200)) for reason in event["reasons"]]}
    return event


def _cut(words: str, limit: int) -> str:
    return words if len(words) <= limit else f"{words[:limit]} … ({len(words) - limit} characters more)"
