"""Held-out accuracy and cost of every strategy on the pocket world: ``make card``.

Writes docs/accuracy.json (every answer), the table in docs/results.md, and the shipped checkpoint's model card.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import multiprocessing
from collections import defaultdict
from pathlib import Path
from typing import Any

from structdecode.evaluation.clusters import wilson
from structdecode.training.sft.recipe import load_recipe

ROOT = Path(__file__).parent.parent
SAMPLED = {"temperature": "1.0", "top_p": "1.0", "max_tokens": "120"}
"""At the paper's 0.6 and 0.9 this model's samples hardly differ."""

JUDGE = {"verifier.max_tokens": "8", "verifier.temperature": "0"}
CELLS: dict[str, tuple[str, str | None, dict[str, str]]] = {
    "direct": ("direct", None, {}),
    "chain of thought": ("cot", None, {}),
    "staged, greedy": ("staged", None, {}),
    "staged, one sample": ("staged", None, SAMPLED),
    "self-consistency, N=4": ("self-consistency", None, {**SAMPLED, "n": "4"}),
    "self-consistency, N=8": ("self-consistency", None, {**SAMPLED, "n": "8"}),
    **{
        f"best-of-N, {verifier}, N=4": ("best-of-n", verifier, {**SAMPLED, "n": "4"})
        for verifier in ("log-prob", "self-certainty", "p-true", "self-judge")
    },
    "best-of-N, log-prob, N=8": ("best-of-n", "log-prob", {**SAMPLED, "n": "8"}),
    "best-of-N, p-true, N=8": ("best-of-n", "p-true", {**SAMPLED, "n": "8"}),
    **{
        f"stage beam, {verifier}, N=4": ("stage-beam", verifier, {**SAMPLED, "candidates": "4"})
        for verifier in ("log-prob", "self-certainty", "p-true", "self-judge")
    },
    "stage beam, p-true, N=4, k=2": ("stage-beam", "p-true", {**SAMPLED, "candidates": "4", "beams": "2"}),
    "stage beam, p-true, N=8": ("stage-beam", "p-true", {**SAMPLED, "candidates": "8"}),
    "sentence beam, log-prob, N=4": ("sentence-beam", "log-prob", {**SAMPLED, "candidates": "4"}),
}


def run_cell(job: tuple[str, int, int]) -> tuple[str, list[dict[str, Any]]]:
    """One strategy over the first `n` questions of the test split."""
    import torch

    from structdecode.core.assembly import make_strategy
    from structdecode.core.lookup import load_backend
    from structdecode.core.many import decode_many
    from structdecode.core.types import Prompt
    from structdecode.matching.answers import final_answer
    from structdecode.pocket import world

    torch.set_num_threads(1)
    name, n, seed = job
    strategy_name, verifier, settings = CELLS[name]
    given = {**settings, **(JUDGE if verifier == "self-judge" else {})}
    strategy, _, _ = make_strategy(strategy_name, verifier, [f"{k}={v}" for k, v in given.items()], None)
    scenes = list(itertools.islice(world.scenes("test"), n))
    prompts = [Prompt(scene.question.text, scene.render()) for scene in scenes]
    rows: list[dict[str, Any]] = [{} for _ in scenes]

    async def run() -> None:
        backend = load_backend(None)
        async for at, result in decode_many(prompts, backend=backend, strategy=strategy, seed=seed, concurrency=16):
            truth = scenes[at].answer
            rows[at] = {
                "answer": final_answer(result.answer),
                "correct": final_answer(result.answer) == truth,
                "captioned": result.stages.get("CAPTION") == scenes[at].stages["CAPTION"],
                "usage": result.usage_by_part["generator"].as_dict(),
                "verifier": result.usage_by_part["verifier"].as_dict(),
                "pool": [
                    [final_answer(r.candidate.stages.get("CONCLUSION", "")) == truth, r.score.value]
                    for _, r in result.draws
                ],
                "rounds": rounds(result.trace.events, {k: v.lower() for k, v in scenes[at].stages.items()}),
            }

    asyncio.run(run())
    return name, rows


def rounds(events: list[dict[str, Any]], truth: dict[str, str]) -> dict[str, list[list[Any]]]:
    """By stage, of every candidate that was scored there: whether that stage is wholly right, and the score."""
    made = {tuple(e["path"]): e for e in events if e["kind"] == "candidate"}
    found: dict[str, list[list[Any]]] = defaultdict(list)
    for event in events:
        if event["kind"] == "score":
            for path, value in zip(event["paths"], event["values"], strict=True):
                candidate = made[tuple(path)]
                right = candidate["text"].lower() == truth.get(candidate["stage"])
                found[candidate["stage"]].append([right, value])
    return found


def share(rows: list[bool]) -> tuple[float, float]:
    """A share and its standard error."""
    p = sum(rows) / len(rows)
    return p, math.sqrt(p * (1 - p) / len(rows))


def percent(rows: list[bool]) -> str:
    """A share in percent with its standard error; with Wilson's interval where all are right, or none is."""
    p, error = share(rows)
    if error:
        return f"{100 * p:.1f} ± {100 * error:.1f}"
    low, high = wilson(p, len(rows))
    return f"{100 * p:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def paired(ours: list[bool], theirs: list[bool]) -> str:
    """The paired difference in points and its standard error, where the two differ at all."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    return f"{100 * mean:+.1f}" + (f" ± {100 * math.sqrt(variance / len(differences)):.1f}" if variance else "")


def within_question_auc(questions: list[list[list[Any]]]) -> str:
    """How often a right candidate is scored above a wrong one of the same question, ties as half; number of pairs."""
    wins, pairs = 0.0, 0
    for scored in questions:
        right = [v for ok, v in scored if ok and v is not None]
        wrong = [v for ok, v in scored if not ok and v is not None]
        wins += sum((a > b) + 0.5 * (a == b) for a in right for b in wrong)
        pairs += len(right) * len(wrong)
    return f"{wins / pairs:.3f} ({pairs})" if pairs else "-"


def table(cells: dict[str, list[dict[str, Any]]]) -> str:
    correct = {name: [row["correct"] for row in rows] for name, rows in cells.items()}
    lines = [
        "| strategy | accuracy, % | against greedy | against one sample | tokens generated | verifier: generated / prefilled |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in cells.items():
        mean: dict[str, float] = defaultdict(float)
        for row in rows:
            for part in ("usage", "verifier"):
                for field in ("generated_tokens", "prefilled_tokens"):
                    mean[f"{part} {field}"] += row[part][field] / len(rows)
        lines.append(
            f"| {name} | {percent(correct[name])} | {paired(correct[name], correct['staged, greedy'])} "
            f"| {paired(correct[name], correct['staged, one sample'])} | {mean['usage generated_tokens']:.0f} "
            f"| {mean['verifier generated_tokens']:.0f} / {mean['verifier prefilled_tokens']:.0f} |"
        )
    pool = cells["best-of-N, log-prob, N=8"]
    covered = percent([any(ok for ok, _ in row["pool"]) for row in pool])
    lines.append(f"| *any of 8 samples right (pass@8)* | {covered} | | | | |")
    return "\n".join(lines)


def verifier_lines(cells: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| verifier | caption | reasoning | conclusion | whole answers |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for verifier in ("log-prob", "self-certainty", "p-true", "self-judge"):
        beam, whole = cells[f"stage beam, {verifier}, N=4"], cells[f"best-of-N, {verifier}, N=4"]
        by_stage = [
            within_question_auc([row["rounds"].get(stage, []) for row in beam])
            for stage in ("CAPTION", "REASONING", "CONCLUSION")
        ]
        lines.append(f"| {verifier} | {' | '.join(by_stage)} | {within_question_auc([row['pool'] for row in whole])} |")
    return "\n".join(lines)


def card(cells: dict[str, list[dict[str, Any]]], n: int, seed: int) -> str:
    recipe = load_recipe(str(ROOT / "structdecode/pocket/checkpoint/recipe.yaml"))
    captions = percent([row["captioned"] for row in cells["staged, greedy"]])
    return f"""# Model card: the pocket model

A `MllamaForConditionalGeneration` of 2.4 million parameters (float16 safetensors, 4.8 MB), trained from nothing
on pictures of coloured shapes, to try structdecode on. It knows nothing else.

- Made by: `make pocket` (`structdecode train --recipe pocket`), seed {recipe.seed}, {recipe.max_steps:,} steps, about 40 minutes on
  two CPU cores, torch 2.13.0, transformers 5.23.0. Recipe: `recipe.yaml`.
- Data: `structdecode/pocket/world.py`, split `train`; a layout belongs to one split for good, so nothing of `test` was seen.
- Taught: four-stage answers, chain of thought, direct answers; and to verify, in the words of `p-true` and `self-judge`,
  on corrupted answers and on its own sampled ones.
- Measured by `make card` on the first {n} questions of the test split, run seed {seed}, ± one standard error.
  Greedy captions are wholly right in {captions} %.

{table(cells)}

How well verifiers tell right from wrong candidates of one question: the share of pairs of a right and a wrong one
in which the right one has the higher score (within-question AUC, 0.5 is chance; number of pairs in brackets).

{verifier_lines(cells)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    arguments = parser.parse_args()
    jobs = [(name, arguments.n, arguments.seed) for name in CELLS]
    found = {}
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for done, (name, rows) in enumerate(pool.imap_unordered(run_cell, jobs), start=1):
            found[name] = rows
            print(f"[{done}/{len(jobs)}] {name}: {100 * share([r['correct'] for r in rows])[0]:.1f} %", flush=True)
    cells = {name: found[name] for name in CELLS}
    (ROOT / "docs").mkdir(exist_ok=True)
    fields = ("answer", "correct", "captioned", "pool")
    kept = {name: [{key: row[key] for key in fields} for row in rows] for name, rows in cells.items()}
    record = {"n": arguments.n, "seed": arguments.seed, "cells": kept}
    (ROOT / "docs/accuracy.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")
    (ROOT / "structdecode/pocket/checkpoint/README.md").write_text(card(cells, arguments.n, arguments.seed))
    page, begin, end = ROOT / "docs/results.md", "<!-- accuracy -->\n", "<!-- /accuracy -->"
    head, rest = page.read_text().split(begin)
    page.write_text(head + begin + table(cells) + "\n" + end + rest.split(end)[1])
    print(table(cells), verifier_lines(cells), sep="\n\n")


if __name__ == "__main__":
    main()
