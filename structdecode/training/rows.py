"""Rows of the three forms that `structdecode.training.export` writes, from one search each."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.training.trees import Node, Texts, Tree

By = Literal["correctness", "score"]
Labels = Literal["rollouts", "reference"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What goes into a file.

    Attributes:
        keep: the most rows: of ``llava-cot`` for a search, of ``dpo`` for a set of siblings.
        only_correct: ``llava-cot``: right answers only; ``dpo``: pairs whose chosen side led to a right answer.
        min_margin: ``dpo``: how much better the chosen side has to be; any better where it is 0.
        by: ``dpo``: by what: the share of right answers among those that follow, or the verifier's score. None is
            the first where there is a reference and else the second.
        labels: ``prm``: by answers that follow from a stage, or by the data's reference text of the stage.
    """

    keep: int = 1
    only_correct: bool = False
    min_margin: float = 0.0
    by: By | None = None
    labels: Labels = "rollouts"

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"keep must be at least 1, not {self.keep}")
        if not self.min_margin >= 0:
            raise ConfigError(f"min_margin must be 0 or more, not {self.min_margin}")
        if self.by is not None and self.by not in get_args(By):
            raise UnknownNameError("by", self.by, get_args(By))
        if self.labels not in get_args(Labels):
            raise UnknownNameError("labels", self.labels, get_args(Labels))


def llava_cot_rows(tree: Tree, options: Options, left_out: Counter[str]) -> Iterator[Row]:
    """The best finished, well-formed answers in the strategy's order; different texts only."""
    if options.only_correct and tree.right is None:
        raise ConfigError(f"{_place(tree)}: no reference answer to tell right from wrong: give --answer")
    if len(tree.images) > 1:
        left_out["LLaVA-CoT rows have one picture"] += 1
        return
    ranked = [tree.by_path[path] for path in tree.ranking if path in tree.by_path]
    good = [node for node in ranked if tree.finished(node) and node.clean and all(text for _, text in node.texts)]
    if options.only_correct and tree.right is not None:
        good = [node for node in good if tree.right[node.path]]
    if not good:
        left_out["no right answer" if options.only_correct else "no finished, well-formed answer"] += 1
    different = list({node.texts: node for node in reversed(good)}.values())[::-1]
    for node in different[: options.keep]:
        turns = [("human", tree.question), ("gpt", tree.answer(node.texts))]
        row: Row = {"id": _row_id(tree, node)}
        if tree.images:
            row["image"] = tree.images[0]
        row["conversations"] = [{"from": speaker, "value": value} for speaker, value in turns]
        yield {**row, "origin": {**tree.origin, "path": list(node.path)}}


def preference_rows(tree: Tree, options: Options, left_out: Counter[str]) -> Iterator[Row]:
    """Pairs of stages that follow the same beginning, the widest apart first."""
    by: By = options.by or ("correctness" if tree.right is not None else "score")
    if (by == "correctness" or options.only_correct) and tree.right is None:
        raise ConfigError(f"{_place(tree)}: no reference answer to tell right from wrong: give --answer, or --by score")
    siblings: dict[Texts, list[Node]] = defaultdict(list)
    for node in tree.nodes:
        if node.well_formed and node.texts[-1][1]:
            siblings[node.texts[:-1]].append(node)
    rows = [row for begun, nodes in siblings.items() for row in _pairs(tree, begun, nodes, by, options)]
    if not rows:
        left_out["no siblings that far apart"] += 1
    yield from rows


def _pairs(tree: Tree, begun: Texts, nodes: Sequence[Node], by: By, options: Options) -> list[Row]:
    found: dict[tuple[Texts, Texts], tuple[float, Node, Node]] = {}
    for pair in itertools.combinations(nodes, 2):
        margin = _margin(tree, *pair, by)
        chosen, rejected = pair if margin is not None and margin > 0 else pair[::-1]
        size = abs(margin or 0.0)
        fit = size > 0 and size >= options.min_margin and chosen.clean and chosen.stage == rejected.stage
        led_to_right = tree.outcomes.get(chosen.texts, (0, 0))[0] > 0
        key = (chosen.texts, rejected.texts)
        if fit and (led_to_right or not options.only_correct) and size > found.get(key, (0.0,))[0]:
            found[key] = (size, chosen, rejected)
    best = sorted(found.values(), key=lambda item: -item[0])[: options.keep]
    return [_pair_row(tree, begun, chosen, rejected, size, by) for size, chosen, rejected in best]


def _margin(tree: Tree, one: Node, other: Node, by: By) -> float | None:
    """How much better the first is than the second, 0 within the scores' resolution; None where they cannot be compared."""
    if one.texts == other.texts:
        return None
    if by == "correctness":
        values = [_share(tree.outcomes.get(node.texts)) for node in (one, other)]
        return None if values[0] is None or values[1] is None else values[0] - values[1]
    together = [scores for scores in tree.rounds if one.path in scores and other.path in scores]
    if not together:
        return None
    better, worse = together[-1][one.path], together[-1][other.path]
    return 0.0 if better.ties(worse) else (better.value or 0.0) - (worse.value or 0.0)


def _pair_row(tree: Tree, begun: Texts, chosen: Node, rejected: Node, margin: float, by: By) -> Row:
    prompt = [{"role": "user", "content": tree.question}]
    if begun:
        prompt.append({"role": "assistant", "content": tree.answer(begun) + tree.schema.separator})
    texts = [[{"role": "assistant", "content": tree.written(*node.texts[-1])}] for node in (chosen, rejected)]
    origin = {**tree.origin, "chosen_path": list(chosen.path), "rejected_path": list(rejected.path)}
    return {
        "prompt": prompt, "chosen": texts[0], "rejected": texts[1], "images": list(tree.images),
        "stage": chosen.stage, "margin": margin, "by": by, "origin": origin,
    }  # fmt: skip


def step_rows(tree: Tree, options: Options, left_out: Counter[str]) -> Iterator[Row]:
    """Answers with a label for each stage; a row ends before the first stage that has none."""
    if tree.right is None:
        raise ConfigError(f"{_place(tree)}: no reference answer to label steps by: give --answer")
    by_rollouts = options.labels == "rollouts"
    seen: set[Texts] = set()
    for node in tree.nodes:
        if not node.well_formed or (by_rollouts and not tree.finished(node)) or node.texts in tree.expanded:
            continue
        labels = _by_rollouts(tree, node) if by_rollouts else _by_reference(tree, node)
        texts = node.texts[: len(labels)]
        if not labels or texts in seen:
            continue
        seen.add(texts)
        row: Row = {
            "prompt": tree.question, "completions": [tree.written(*step) for step in texts],
            "labels": labels, "images": list(tree.images), "stages": [stage for stage, _ in texts],
        }  # fmt: skip
        if by_rollouts:
            counts = [tree.outcomes[texts[: at + 1]] for at in range(len(texts))]
            row |= {"values": [won / total for won, total in counts], "rollouts": [total for _, total in counts]}
        yield {**row, "origin": {**tree.origin, "path": list(node.path)}}
    if not seen:
        left_out["no finished answer" if by_rollouts else "no reference text of its stages"] += 1


def _by_rollouts(tree: Tree, node: Node) -> list[bool]:
    """Hard estimation: a stage is good if any answer that goes through it is right (Math-Shepherd, section 3.3)."""
    return [tree.outcomes[node.texts[: at + 1]][0] > 0 for at in range(len(node.texts))]


def _by_reference(tree: Tree, node: Node) -> list[bool]:
    """A stage is good if it says what the reference says and so did all before it; the last one: if it is right."""
    labels: list[bool] = []
    for at, (stage, text) in enumerate(node.texts):
        last = at == len(node.texts) - 1 and tree.right is not None and node.path in tree.right
        if not last and stage not in tree.references:
            break
        good = (tree.right or {})[node.path] if last else _plain(text) == _plain(tree.references[stage])
        labels.append(good and all(labels))
    return labels


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _share(outcome: tuple[int, int] | None) -> float | None:
    return None if outcome is None else outcome[0] / outcome[1]


def _row_id(tree: Tree, node: Node) -> str:
    """Unique in a file: a run has a question once in each cell."""
    key = str(tree.origin.get("key", ""))[:8]
    return ":".join(filter(None, (str(tree.origin["id"]), key, ".".join(map(str, node.path)))))


def _place(tree: Tree) -> str:
    return str(tree.origin.get("trace") or f"{tree.origin.get('run')}, question {tree.origin['id']!r}")


# ------------------------------------------------------------------ preference pairs as plain text


def preference_text(row: Mapping[str, Any], processor: Any) -> Row:
    """A ``dpo`` row as plain text: what TRL's `DPOTrainer` is to be given.

    The conversational form leaves the beginning of the answer in an assistant turn that is not over. TRL renders
    ``prompt + chosen`` through the chat template, which ends that turn and opens another, so the model would learn
    to stop in the middle of its answer. Here the prompt is rendered alone, as decoding does it, with the beginning
    behind it; ``chosen`` and ``rejected`` are one stage's text and nothing else, no end of turn among it.
    """
    from structdecode.backends.transformers.templates import rendered

    user, *begun = row["prompt"]
    parts = [*({"type": "image"} for _ in row["images"]), {"type": "text", "text": user["content"]}]
    text = rendered(processor, [{"role": "user", "content": parts}])
    texts = {name: row[name][0]["content"] for name in ("chosen", "rejected")}
    return {**row, "prompt": text + "".join(turn["content"] for turn in begun), **texts}
