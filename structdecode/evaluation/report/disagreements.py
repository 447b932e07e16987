"""Questions that one cell gets and another loses: picture, question, both answers and both search trees.

Everything that is shown lies in the page once, as ``<template>`` elements that the browser copies from when two cells
are chosen; so an answer that many pairs share costs its size once. Search trees are long and repeat themselves: they
are packed by zlib to a tenth and unpacked by the browser when one is opened. ``ROOM`` bounds them all together.
"""

from __future__ import annotations

import base64
import io
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from structdecode.core.reading import read_bytes
from structdecode.core.view import data_url, search_tree
from structdecode.evaluation.report.page import template
from structdecode.evaluation.report.results import CellResult, Results
from structdecode.evaluation.report.section import Block, Column, Paragraph, Section, Table
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
class PageAssets:
    """The templates that are in the page, and how much room is left."""

    results: Results
    room: int = ROOM
    html: dict[str, Markup] = field(default_factory=dict)

    def has(self, cell: CellResult, question: str) -> bool:
        return _key(self.results, cell, question) in self.html

    def put(self, name: str, content: Markup) -> None:
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


@dataclass(frozen=True)
class Examples:
    """The questions to choose from. ``index``: the cells' names, and by pair of them the names of its templates."""

    template: ClassVar[str] = "examples.html"
    index: Mapping[str, Any]
    assets: PageAssets

    def markdown(self) -> str:
        return "The page `report.html` shows them with picture, both answers and both search trees."


def section(results: Results) -> Section:
    pairs = lost(results)
    if not any(pairs.values()):
        nothing = Paragraph("No two cells disagree on a question.")
        return Section("disagreements", "Questions that one gets and another loses", (nothing,))
    chosen = _names(results)
    rows = tuple({"a": a, "b": b, "count": len(found)} for (a, b), found in pairs.items() if found)
    columns = (Column("a", "A gets", text=True), Column("b", "B loses", text=True), Column("count", "questions"))
    first = sorted({cell.seeds[0] for cell in results.cells.values() if len(cell.seeds) > 1})
    examples = _examples(results, pairs, chosen)
    shown = sum(len(pair["items"]) for pair in examples.index["pairs"].values())
    words = (
        f"All cells in pairs. In the page at most {PER_PAIR} questions a pair, {shown} in all, as many as fit into it, those "
        "of the families' best cells first; the counts are of all of them. In a tree, only scores of one round compare. A "
        "search with several beams keeps the best of a round and some below it: where a continuation of a lower one won, "
        "the tree says so." + (f" Of several seeds, seed {' and '.join(map(str, first))} is shown." if first else "")
    )
    blocks: list[Block] = [
        Paragraph(words),
        examples,
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


def _examples(results: Results, pairs: dict[tuple[str, str], list[str]], chosen: list[str]) -> Examples:
    assets = PageAssets(results)
    examples = pick(results, pairs, assets)
    numbered = {
        f"{chosen.index(a)},{chosen.index(b)}": {"total": len(found), "items": examples[a, b]}
        for (a, b), found in pairs.items()
        if found
    }
    return Examples({"cells": chosen, "pairs": numbered}, assets)


def pick(
    results: Results, pairs: dict[tuple[str, str], list[str]], assets: PageAssets
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
            if not questions or assets.room <= 0:
                continue
            missing = [sum(cell.width for cell in cells if not assets.has(cell, q)) for q in questions]
            question = questions.pop(missing.index(min(missing)))
            taken[a, b].append(assets.add(*cells, question))
    return taken


# ------------------------------------------------------------------ one question, one answer


def question_html(results: Results, question: str, trace: Mapping[str, Any] | None) -> Markup:
    """Picture, text, options and reference."""
    known = results.run.questions.get(question, {})
    digests = (trace or {}).get("images") or ()
    return template(
        "question.html", question=question, words=known.get("text") or (trace or {}).get("question") or question,
        options=known.get("options"), stages=known.get("stages"), reference=" · ".join(map(str, known.get("answers") or ())),
        pictures=[url for digest in digests if (url := picture_url(results, digest))],
    )  # fmt: skip


def picture_url(results: Results, digest: str) -> str:
    """A picture of the run for the page, made smaller where it is large; empty where it was not kept."""
    path = results.run.picture(digest)
    if path is None:
        return ""
    data = read_bytes(path)
    return data_url(_smaller(data), "jpeg") if len(data) > PICTURE_ROOM else data_url(data)


def _smaller(data: bytes) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((320, 320))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def answer_html(record: Record, trace: Mapping[str, Any] | None) -> Markup:
    """One cell's answer: the verdict, its stages, and the tree that it was found in."""
    notes = [
        f"matched by {record.rule}: {record.extracted or 'nothing'}",
        *([f"stopped by {record.stopped_by}"] if record.stopped_by else []),
        *([f"not asked: {record.error}"] if record.error else []),
        *record.failures,
    ]
    tree, packed = packed_tree(trace)
    return template(
        "answer.html", sign="right" if record.correct else "wrong", answer=_cut(record.answer, 400), notes=notes,
        stages={name: _cut(text, 1200) for name, text in record.stages.items()}, wrong_stages=record.wrong_stages,
        tree=tree, packed=packed,
    )  # fmt: skip


def packed_tree(trace: Mapping[str, Any] | None) -> tuple[str, str]:
    """What there is of the search tree, in words, and the tree itself, its texts cut until it fits; empty if it never does."""
    if trace is None:
        return "no search tree was kept", ""
    count = sum(event["kind"] == "candidate" for event in trace["events"])
    what = f"search tree, {count} span{'' if count == 1 else 's'}"
    for limit in (4000, 1000, 300, 100, 30):
        events = [_shorter(event, limit) for event in trace["events"]]
        packed = base64.b64encode(zlib.compress(search_tree(events).encode(), 9)).decode()
        if len(packed) <= TREE_ROOM:
            return what, packed
    return f"{what}: too large for this page; traces.jsonl has it", ""


def _shorter(event: dict[str, Any], limit: int) -> dict[str, Any]:
    if event["kind"] == "candidate":
        return {**event, "text": _cut(event["text"], limit)}
    if event["kind"] == "score":
        return {**event, "reasons": [_cut(reason or "", min(limit, 200)) for reason in event["reasons"]]}
    return event


def _cut(words: str, limit: int) -> str:
    return words if len(words) <= limit else f"{words[:limit]} … ({len(words) - limit} characters more)"
