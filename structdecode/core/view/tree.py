"""The candidates of a trace as a tree, with what became of each and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from structdecode.core.types import Path
from structdecode.core.view.marking import Piece, differences, probability, with_tokens

Event = Mapping[str, Any]


class RoundScore(NamedTuple):
    """A verifier's word on one candidate, and the highest value of the round that it was given in."""

    verifier: str
    value: float | None
    reason: str
    top: float | None

    @property
    def behind(self) -> float:
        """By how much it is below the highest of its round; 0 where it is not, or has no value."""
        return 0.0 if self.value is None or self.top is None else self.top - self.value


@dataclass(frozen=True)
class Node:
    """One candidate: its newest span and the scores it was given.

    Attributes:
        tokens: how many were written; token_log_probs: text and log-probability of each, where the trace has them.
        kept: whether it is on the way to the answer. fate: what became of it, in words.
        chosen: the text that the answer has in this place, in the same stage; None where it has none.
    """

    path: Path
    stage: str
    text: str
    finish_reason: str
    tokens: int
    log_prob: float
    seed: int | None
    scores: tuple[RoundScore, ...]
    kept: bool
    fate: str
    chosen: str | None
    token_log_probs: tuple[tuple[str, float], ...]

    @property
    def probability(self) -> float:
        """A token's, the geometric mean; 1 where none was written."""
        return probability(self.log_prob / self.tokens) if self.tokens > 0 else 1.0

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The text, cut where it begins or ceases to differ from the chosen one, and where a token ends."""
        whole = [Piece(self.text)] if self.kept or self.chosen is None else list(differences(self.text, self.chosen))
        return tuple(with_tokens(whole, self.token_log_probs))


class SearchTree:
    """The nodes by path, in the order in which they were written. What has no parent in the trace is left out."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.result = result_event(events)
        ranking = self.result.get("ranking") or []
        self.best: Path = tuple(ranking[0]) if ranking else ()
        self._events: dict[Path, Event] = {}
        self._scores: dict[Path, list[RoundScore]] = defaultdict(list)
        for event in events:
            if event["kind"] == "candidate":
                self._events[tuple(event["path"])] = event
            elif event["kind"] == "score":
                top = max((v for v in event["values"] if v is not None), default=None)
                for path, value, reason in zip(event["paths"], event["values"], event["reasons"], strict=True):
                    self._scores[tuple(path)].append(RoundScore(event["verifier"], value, reason, top))

    @cached_property
    def children(self) -> Mapping[Path, Sequence[Path]]:
        found: dict[Path, list[Path]] = defaultdict(list)
        for path in self._events:
            found[path[:-1]].append(path)
        return found

    def __len__(self) -> int:
        return len(self._events)

    def walk(self) -> Iterator[tuple[Node, int]]:
        """Depth first, each node with the number of nodes (itself and its ancestors) that end behind it."""
        waiting = list(reversed(self.children.get((), ())))
        while waiting:
            path = waiting.pop()
            below = self.children.get(path, ())
            waiting += reversed(below)
            follows = len(waiting[-1]) if waiting else 1
            yield self.node(path), 0 if below else len(path) + 1 - follows

    def node(self, path: Path) -> Node:
        event, kept = self._events[path], path == self.best[: len(path)]
        return Node(
            path, event["stage"], event["text"], event["finish_reason"], int(event["tokens"]), float(event["log_prob"]),
            event.get("seed"), tuple(self._scores[path]), kept, self._fate(path, event, kept), self._chosen(path, event),
            tuple(zip(event.get("token_texts", ()), map(float, event.get("token_log_probs", ())), strict=True)),
        )  # fmt: skip

    def stage(self, path: Path) -> str:
        return str(self._events[path]["stage"])

    def _chosen(self, path: Path, event: Event) -> str | None:
        there = self._events.get(self.best[: len(path)])
        same = there is not None and len(path) <= len(self.best) and there["stage"] == event["stage"]
        return there["text"] if there is not None and same else None

    def _fate(self, path: Path, event: Event, kept: bool) -> str:
        last = self._scores[path][-1] if self._scores[path] else None
        behind = last.behind if last is not None else 0.0
        if path == self.best:
            return "the answer"
        if kept:
            # with several beams: the best of the round was kept too, and lost later
            return f"kept: {behind:.4f} below the best of its round, but a continuation of it won" if behind else "kept"
        if self.children.get(path):
            return "kept, but no continuation of it won" if last is not None else "kept"
        if event["finish_reason"] == "invalid":
            return "pruned: malformed"
        if last is None:
            return "not chosen: never scored"
        if last.value is None:
            return f"pruned: unscored ({last.reason})"
        return f"pruned: {behind:.4f} below the best of its round" if behind else "pruned: a tie, drawn later"


def result_event(events: Sequence[Event]) -> Event:
    """The last result, empty where the search has none."""
    return next((e for e in reversed(events) if e["kind"] == "result"), {})
