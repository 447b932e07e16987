"""Search trees read back from run directories and trace files, one at a time.

A trace has each stage's text without its tags; they are put around it again as the search's schema has them. Two
candidates that wrote the same text so far are in the same state, whichever search branch they are on: what follows
from either says something about both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, TypedDict

from structdecode.core.errors import ConfigError
from structdecode.core.events import trace_problem
from structdecode.core.lookup import find_schema
from structdecode.core.shapes import misfit
from structdecode.core.trace import Trace
from structdecode.core.types import Path, Prompt, Sampling, Schema, Score, Stage
from structdecode.core.visible import visible_text
from structdecode.matching import match
from structdecode.matching.types import Question
from structdecode.records.store import Run, read_run
from structdecode.records.types import Record

Texts = tuple[tuple[str, str], ...]
"""A state: (stage, text) of each closed stage, in order."""


@dataclass(frozen=True)
class Node:
    """A candidate whose newest stage is closed.

    Attributes:
        finish_reasons: of all its spans; a stage that was written in sentences has several.
    """

    path: Path
    texts: Texts
    finish_reasons: frozenset[str]

    @property
    def stage(self) -> str:
        return self.texts[-1][0]

    @property
    def clean(self) -> bool:
        """Whether the model ended every stage by itself."""
        return self.finish_reasons <= {"stop"}

    @property
    def well_formed(self) -> bool:
        """Whether the text with its tags is what the model had before it: a malformed stage's is not."""
        return "invalid" not in self.finish_reasons


@dataclass(frozen=True)
class Tree:
    """One search.

    Attributes:
        question: as the model was asked, the schema's instruction around it.
        images: paths. schema: with the stages that the search had.
        origin: where it is from: ``run`` or ``trace``, and for a run ``cell``, ``key`` and ``id``.
        nodes: in the order in which they were made. ranking: the strategy's, best first.
        rounds: for each call of a verifier, score by path.
        right: whether a finished candidate's answer is right, by path; None without a reference.
        references: text by stage, where the data has it.
    """

    question: str
    images: tuple[str, ...]
    schema: Schema
    origin: Mapping[str, Any]
    nodes: tuple[Node, ...]
    ranking: tuple[Path, ...]
    rounds: tuple[Mapping[Path, Score], ...]
    right: Mapping[Path, bool] | None
    references: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_path(self) -> dict[Path, Node]:
        return {node.path: node for node in self.nodes}

    def finished(self, node: Node) -> bool:
        done = {stage for stage, _ in node.texts}
        return node.stage == self.schema.stages[-1].name and all(
            stage.name in done or stage.optional for stage in self.schema.stages
        )

    @cached_property
    def expanded(self) -> frozenset[Texts]:
        """States that the search went on from."""
        return frozenset(node.texts[:-1] for node in self.nodes)

    @cached_property
    def outcomes(self) -> dict[Texts, tuple[int, int]]:
        """By state: (right, all) finished answers that go through it, as Monte-Carlo rollouts of it."""
        counts: dict[Texts, tuple[int, int]] = {}
        for path, right in (self.right or {}).items():
            texts = self.by_path[path].texts
            for length in range(1, len(texts) + 1):
                won, total = counts.get(texts[:length], (0, 0))
                counts[texts[:length]] = (won + right, total + 1)
        return counts

    def written(self, stage: str, text: str) -> str:
        """A stage with its tags."""
        found = next(s for s in self.schema.stages if s.name == stage)
        return f"{found.begin} {text} {found.end}".strip()

    def answer(self, texts: Texts) -> str:
        """Stages as the model writes them one after the other."""
        return self.schema.separator.join(self.written(stage, text) for stage, text in texts)


def read_trees(
    source: FilePath,
    left_out: Counter[str],
    damaged: dict[str, str],
    *,
    schema: str | None = None,
    images: Sequence[FilePath] = (),
    answers: Sequence[str] = (),
) -> Iterator[Tree]:
    """The searches of a run directory of `structdecode compare`, or the one of a `generate --trace` file.

    Args:
        left_out: counts the searches that are not there, by reason. damaged: is told what is wrong with lines of a run's
            traces, by file and line.
        schema, images, answers: for a trace file, which has neither stages' tags, nor pictures, nor references.

    Raises:
        ConfigError: it is neither, or what a trace file needs is missing or does not fit.
    """
    if source.is_dir():
        if images or answers or schema:
            raise ConfigError(
                f"{source}: a run directory has its own pictures, answers and schemas: leave the options out"
            )
        return _of_run(replace(read_run(source), damaged_traces=damaged), left_out)
    return iter([_of_file(source, schema, images, answers)])


class _Asked(TypedDict):
    """What has to be in a trace's header beside what a page of it needs."""

    question: str
    images: list[str]
    stages: list[str]
    schema: str
    sample_id: str | None


def _problem(trace: Any) -> str | None:
    """What keeps parsed JSON from being a trace that a tree can be read from."""
    problem = trace_problem(trace) or misfit(trace, _Asked)
    if problem is not None or not trace["stages"]:
        return problem or "stages is empty"
    seen: set[Path] = {()}
    for number, event in enumerate(trace["events"], start=1):
        if event["kind"] == "candidate":
            if "closed" not in event:
                return f"event {number}: has no 'closed'"
            path = tuple(event["path"])
            if path[:-1] not in seen:
                return f"event {number}: a candidate whose parent is not there"
            seen.add(path)
    return None


# ------------------------------------------------------------------ run directories


def _of_run(run: Run, left_out: Counter[str]) -> Iterator[Tree]:
    schemas = {cell["name"]: _schema_of(cell["schema"]) for cell in run.study["config"]["cells"]}
    for record in run.records:
        trace = run.trace(record.key, _problem)
        if trace is None:
            left_out["no whole trace was kept"] += 1
            continue
        pictures = [run.picture(digest) for digest in trace["images"]]
        if None in pictures:
            left_out["its picture was not kept"] += 1
            continue
        line = run.questions[record.id]
        question = Question(
            line["id"], line["text"], tuple(line["answers"]), options=line["options"], kind=line["kind"],
            tolerance=line["tolerance"], stages=line["stages"],
        )  # fmt: skip
        origin = {"run": str(run.directory), "cell": record.cell, "key": record.key, "id": record.id}
        paths = tuple(str(path.resolve()) for path in pictures if path is not None)
        yield _tree(trace, schemas[record.cell], paths, origin, question, record)


def _schema_of(plain: Mapping[str, Any]) -> Schema:
    """A schema back from ``study.json``."""
    stages = [
        Stage(**{**_fields(stage), "sampling": Sampling(**_fields(stage["sampling"]))}) for stage in plain["stages"]
    ]
    return Schema(**{**_fields(plain), "stages": tuple(stages)})


def _fields(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key != "class"}


# ------------------------------------------------------------------ trace files


def _of_file(path: FilePath, schema: str | None, images: Sequence[FilePath], answers: Sequence[str]) -> Tree:
    loaded = Trace.load(path)
    trace = loaded.as_dict()
    problem = _problem(trace)
    if problem is not None:
        raise ConfigError(f"{path}: damaged: {problem}: write it again with `generate --trace`")
    try:
        found = find_schema(schema or trace["schema"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}: give its file with --schema") from None
    strange = [name for name in trace["stages"] if name not in {stage.name for stage in found.stages}]
    if strange:
        raise ConfigError(
            f"{path}: schema {found.name!r} has no stage {strange[0]!r}: give the right one with --schema"
        )
    loaded.pictures(images, path)
    paths = tuple(str(image.resolve()) for image in images)
    origin = {"trace": str(path), "id": trace["sample_id"] or path.stem}
    question = Question(origin["id"], trace["question"], tuple(answers)) if answers else None
    return _tree(trace, found, paths, origin, question, None)


# ------------------------------------------------------------------ both


def _tree(
    trace: Mapping[str, Any],
    schema: Schema,
    images: tuple[str, ...],
    origin: Mapping[str, Any],
    question: Question | None,
    record: Record | None,
) -> Tree:
    schema = replace(schema, stages=tuple(stage for stage in schema.stages if stage.name in trace["stages"]))
    events = trace["events"]
    rankings = [[], *(event["ranking"] for event in events if event["kind"] == "result")]  # none where it was cut short
    tree = Tree(
        question=schema.ask(Prompt(trace["question"])).question, images=images, schema=schema, origin=origin,
        nodes=_nodes(events), ranking=tuple(tuple(path) for path in rankings[-1]), rounds=_rounds(events),
        right=None, references=question.stages if question is not None else {},
    )  # fmt: skip
    if question is None or not question.answers:
        return tree
    known = {pooled.path: pooled.correct for pooled in record.pool} if record is not None else {}
    return replace(tree, right=_right(tree, question, known))


def _nodes(events: Sequence[Mapping[str, Any]]) -> tuple[Node, ...]:
    made: dict[Path, tuple[Texts, frozenset[str], bool]] = {(): ((), frozenset(), True)}
    nodes = []
    for event in events:
        if event["kind"] != "candidate":
            continue
        path: Path = tuple(event["path"])
        texts, reasons, closed = made[path[:-1]]
        stage, text = event["stage"], event["text"]
        texts = (
            (*texts, (stage, text))
            if closed
            else (*texts[:-1], (stage, f"{texts[-1][1]}{event.get('lead', ' ')}{text}".strip()))
        )
        made[path] = (texts, reasons | {event["finish_reason"]}, event["closed"])
        if event["closed"]:
            nodes.append(Node(path, texts, made[path][1]))
    return tuple(nodes)


def _rounds(events: Sequence[Mapping[str, Any]]) -> tuple[dict[Path, Score], ...]:
    return tuple(
        {
            tuple(path): Score(value, resolution=event.get("resolution"))
            for path, value in zip(event["paths"], event["values"], strict=True)
            if value is not None
        }
        for event in events
        if event["kind"] == "score"
    )


def _right(tree: Tree, question: Question, known: Mapping[Path, bool]) -> dict[Path, bool]:
    """What the run's matcher (and judge) said; by the rules for candidates that the strategy did not rank."""
    found = {}
    for node in tree.nodes:
        if tree.finished(node):
            answer = visible_text(tree.schema, dict(node.texts))
            verdict = known.get(node.path)
            found[node.path] = match(answer, question).correct if verdict is None else verdict
    return found
