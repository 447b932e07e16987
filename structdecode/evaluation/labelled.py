"""Candidates of a run that a verifier scored, each with whether the final answer came out right: what a fit or an audit is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from structdecode.core.types import Path
from structdecode.evaluation.recording import WHOLE_ANSWER
from structdecode.evaluation.report.results import CellResult, Results
from structdecode.records.store import Run
from structdecode.records.types import Record, ScoringRound


@dataclass(frozen=True)
class LabelledCandidate:
    """One candidate with a verifier's word on it.

    Attributes:
        question: its id. cluster: of the question. stage: the candidate's newest one.
        score: None where the verifier gave none.
        right: the share of the finished answers below it that are right; None where none was finished.
        finished: whether it is one of these answers itself.
        tokens: written so far; None where no trace was kept. reason: why it has no score, where that is known.
        details: the figures of the score's details.
        inferred: whether the score is none that a search asked for, but what the details of a finished answer's score say
            of an earlier stage by its name.
    """

    question: str
    cluster: str
    seed: int
    stage: str
    path: Path
    score: float | None
    right: float | None
    finished: bool
    tokens: int | None = None
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    inferred: bool = False


@dataclass(frozen=True)
class LabelledScores:
    """A verifier's scores in one cell.

    Attributes:
        verifier: its label. stages: of the schema, in order.
    """

    verifier: str
    cell: CellResult
    stages: tuple[str, ...]
    candidates: tuple[LabelledCandidate, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the cell's verifier, as ``study.json`` has them."""
        return self.cell.resolved.get("verifier") or {}

    @cached_property
    def finished(self) -> list[LabelledCandidate]:
        """Whole answers."""
        return [candidate for candidate in self.candidates if candidate.finished]

    @cached_property
    def by_stage(self) -> dict[str, list[LabelledCandidate]]:
        """In the schema's order."""
        found: dict[str, list[LabelledCandidate]] = defaultdict(list)
        for candidate in self.candidates:
            found[candidate.stage].append(candidate)
        return {stage: found[stage] for stage in dict.fromkeys((*self.stages, *found)) if found[stage]}

    def named(self, name: str) -> bool:
        """Whether this is the verifier of that label or registered name."""
        return name in (self.verifier, self.cell.verifier)


def labelled_scores(results: Results) -> list[LabelledScores]:
    """Of each verifier in each family its widest cell, since narrower ones hold the same candidates; in the study's order.

    Families are told apart by the verifier's settings, too.
    """
    schemas = {cell["name"]: cell["schema"] for cell in results.run.study["config"]["cells"]}
    widest: dict[tuple[str, str], CellResult] = {}
    for cell in results.cells.values():
        key = (cell.family, repr(cell.resolved.get("verifier")))
        if key not in widest or cell.width > widest[key].width:
            widest[key] = cell
    return [found for cell in widest.values() for found in _of_cell(results.run, cell, schemas[cell.records[0].cell])]


def _of_cell(run: Run, cell: CellResult, schema: Mapping[str, Any]) -> Iterator[LabelledScores]:
    stages = tuple(stage["name"] for stage in schema.get("stages", ()))
    found: dict[str, list[LabelledCandidate]] = defaultdict(list)
    for record, cluster in zip(cell.records, cell.keys, strict=True):
        for verifier, candidates in _of_record(run, record, cluster, stages).items():
            found[verifier] += candidates
    for verifier, candidates in found.items():
        yield LabelledScores(verifier, cell, stages, tuple(candidates))


def _of_record(run: Run, record: Record, cluster: str, stages: Sequence[str]) -> dict[str, list[LabelledCandidate]]:
    """By verifier; of a candidate that was scored twice the later score."""
    trace = run.trace(record.key) if record.rounds else None
    events = trace["events"] if trace is not None else []
    tree = _Tree({tuple(event["path"]): event for event in events if event["kind"] == "candidate"}, record)
    asked: Sequence[Mapping[str, Any]] = [event for event in events if event["kind"] == "score"]
    found: dict[str, dict[Path, LabelledCandidate]] = defaultdict(dict)
    for at, scored in enumerate(record.rounds):
        event = asked[at] if len(asked) == len(record.rounds) else {}
        for candidate in _of_round(scored, event, tree, cluster, stages):
            found[scored.verifier][candidate.path] = candidate
    for candidates in found.values():
        for inferred in [c for answer in candidates.values() for c in _earlier(answer, tree, stages)]:
            candidates.setdefault(inferred.path, inferred)
    return {verifier: list(candidates.values()) for verifier, candidates in found.items()}


@dataclass(frozen=True)
class _Tree:
    """Of one search: the trace's candidates by path (none where no trace was kept), and the record."""

    made: Mapping[Path, Mapping[str, Any]]
    record: Record

    @cached_property
    def answers(self) -> dict[Path, bool]:
        return {answer.path: answer.correct for answer in self.record.pool}

    def right(self, path: Path) -> float | None:
        if path in self.answers:
            return float(self.answers[path])
        below = [correct for answer, correct in self.answers.items() if answer[: len(path)] == path]
        return sum(below) / len(below) if below else None

    def tokens(self, path: Path) -> int | None:
        spans = [self.made.get(path[:length]) for length in range(1, len(path) + 1)]
        return None if None in spans else sum(span["tokens"] for span in spans if span is not None)

    def stage(self, path: Path, scored: ScoringRound, stages: Sequence[str]) -> str:
        """The newest: whole answers are recorded under a name of their own."""
        if path in self.made:
            return str(self.made[path]["stage"])
        return stages[-1] if scored.stage == WHOLE_ANSWER and stages else scored.stage


def _of_round(
    scored: ScoringRound, event: Mapping[str, Any], tree: _Tree, cluster: str, stages: Sequence[str]
) -> Iterator[LabelledCandidate]:
    count = len(scored.paths)
    reasons = event.get("reasons") or [scored.reason] * count
    details = event.get("details") or [{}] * count
    for at, path in enumerate(scored.paths):
        value = scored.values[at]
        yield LabelledCandidate(
            tree.record.id, cluster, tree.record.seed, tree.stage(path, scored, stages), path, value, tree.right(path),
            path in tree.answers, tree.tokens(path), reasons[at] if value is None else "", details[at],
        )  # fmt: skip


def _earlier(answer: LabelledCandidate, tree: _Tree, stages: Sequence[str]) -> Iterator[LabelledCandidate]:
    """What a finished answer's details say of its earlier stages, as of the candidates that end with them."""
    told = [stage for stage in stages[:-1] if answer.finished and isinstance(answer.details.get(stage), int | float)]
    ends = {str(tree.made[path]["stage"]): path for path in _prefixes(answer.path) if path in tree.made}
    for stage in told:
        if stage in ends:
            path = ends[stage]
            yield LabelledCandidate(
                answer.question, answer.cluster, answer.seed, stage, path, float(answer.details[stage]),
                tree.right(path), False, tree.tokens(path), inferred=True,
            )  # fmt: skip


def _prefixes(path: Path) -> list[Path]:
    return [path[:length] for length in range(1, len(path) + 1)]
