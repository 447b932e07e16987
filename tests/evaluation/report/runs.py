"""Run directories as `structdecode compare` leaves them, from a simulated model whose right and wrong is known.

Each question has a difficulty; a candidate's caption, reasoning and conclusion are right by chance; a verifier's score
is right or wrong plus noise. Searches choose by these scores as the real ones do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from structdecode.core.problems import Rejected
from structdecode.records.types import Record, ScoredCandidate, ScoringRound

STAGES = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
NOISE = {"p-true": 0.7, "log-prob": 1.5, "self-judge": 4.0}
WIDTHS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Plan:
    strategy: str
    verifier: str | None = None
    width: int = 1
    temperature: float = 1.0
    label: str = ""

    @property
    def family(self) -> str:
        return self.label or (f"{self.strategy}/{self.verifier}" if self.verifier else self.strategy)

    @property
    def swept(self) -> bool:
        return self.strategy in ("self-consistency", "best-of-n", "stage-beam", "sentence-beam")

    @property
    def name(self) -> str:
        return f"{self.family}/n={self.width}" if self.swept else self.family

    def as_dict(self) -> dict[str, Any]:
        count = {"best-of-n": "n", "self-consistency": "n"}.get(self.strategy, "candidates")
        resolved = {
            "class": self.strategy,
            "temperature": self.temperature,
            **({count: self.width} if self.swept else {}),
        }
        return {
            "name": self.name, "family": self.family, "strategy": self.strategy, "verifier": self.verifier,
            "settings": {}, "sweep": {"n": self.width} if self.swept else {}, "resolved": resolved,
            "schema": {}, "budget": {}, "seed": 0, "digest": self.name,
        }  # fmt: skip


def study_plans(widths: Sequence[int] = WIDTHS) -> list[Plan]:
    """The study of the issue: four single answers, and four searches over N, three of them with three verifiers."""
    single = [Plan("direct"), Plan("cot"), Plan("staged", temperature=0.0), Plan("staged", label="staged, one sample")]
    return [
        *single,
        *(Plan("self-consistency", None, n) for n in widths),
        *(Plan(s, v, n) for s in ("best-of-n", "stage-beam", "sentence-beam") for v in NOISE for n in widths),
    ]


@dataclass
class Simulation:
    """Writes one run directory."""

    directory: Path
    plans: Sequence[Plan]
    questions: int = 40
    traced: int = 12
    accuracy: float | None = None
    seed: int = 0
    text: str = "How many red squares are there?"
    skip: dict[str, int] = field(default_factory=dict)
    rejected: Sequence[Rejected] = ()

    def write(self) -> Path:
        (self.directory / "pictures").mkdir(parents=True, exist_ok=True)
        study = {
            "format": "structdecode-study/1",
            "config": {
                "record_version": 1, "seeds": [0], "model": {"name": "simulated", "digest": "m"},
                "data": {"name": "simulated", "digest": "d", "source": "sim.jsonl"}, "cells": [p.as_dict() for p in self.plans],
            },
            "started": f"2026-01-01T00:00:{np.random.default_rng().integers(60):02d}Z", "command": ["compare"],
            "versions": {"python": "3"}, "machine": {"cpus": 2},
        }  # fmt: skip
        (self.directory / "study.json").write_text(json.dumps(study))
        (self.directory / "rejected.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in self.rejected))
        self._questions()
        with (
            (self.directory / "records.jsonl").open("w") as records,
            (self.directory / "traces.jsonl").open("w") as traces,
        ):
            for plan in self.plans:
                for at in range(self.questions - self.skip.get(plan.name, 0)):
                    record, events = self._search(plan, at)
                    records.write(json.dumps(record.as_dict()) + "\n")
                    if at < self.traced:
                        header = {"format": "structdecode-trace/1", "question": self._text(at), "images": [f"p{at}"]}
                        traces.write(json.dumps({"key": record.key, "trace": {**header, "events": events}}) + "\n")
        return self.directory

    def _text(self, at: int) -> str:
        return f"{self.text} ({at})"

    def _questions(self) -> None:
        with (self.directory / "questions.jsonl").open("w") as file:
            for at in range(self.questions):
                stages = {name: f"true {name.lower()} {at}" for name in STAGES}
                line = {"id": f"q{at}", "text": self._text(at), "answers": [str(at)], "options": {}, "stages": stages}
                file.write(json.dumps(line) + "\n")
                if at < self.traced:
                    pixels = np.random.default_rng(at).integers(0, 255, (16, 16, 3), dtype=np.uint8)
                    Image.fromarray(pixels).resize((64, 64), 0).save(self.directory / "pictures" / f"p{at}.png")

    # -------------------------------------------------------------- one search

    def _search(self, plan: Plan, at: int) -> tuple[Record, list[dict[str, Any]]]:
        rng = np.random.default_rng([self.seed, at, sum(plan.family.encode()), plan.width])
        skill = (
            self.accuracy if self.accuracy is not None else float(np.random.default_rng([self.seed, at]).beta(3, 1.2))
        )
        by_stage = plan.strategy in ("stage-beam", "sentence-beam")
        noise, tree = NOISE.get(plan.verifier or "", 1.0), _Tree(at, skill, rng)
        beams: list[tuple[int, ...]] = [()] if by_stage else [()] * plan.width
        rounds: list[ScoringRound] = []
        for depth, stage in enumerate(STAGES):
            paths = [(*beams[0], k) for k in range(plan.width)] if by_stage else [
                (*beam, k if depth == 0 else 0) for k, beam in enumerate(beams)
            ]  # fmt: skip
            for path in paths:
                tree.grow(path, stage)
            beams = paths
            if plan.verifier and (by_stage or stage == STAGES[-1]):
                values = [float(f"{tree.right[p] + noise * rng.normal():.4f}") for p in paths]
                name = stage if by_stage else "ANSWER"
                rounds.append(
                    ScoringRound(name, plan.verifier, tuple(paths), tuple(values), tuple(tree.right[p] for p in paths))
                )
                beams = [paths[i] for i in np.argsort([-v for v in values], kind="stable")][
                    : 1 if stage != STAGES[-1] else None
                ]
                tree.score(plan.verifier, paths, values)
        return self._record(plan, at, tree, beams, rounds, rng), tree.finish(beams)

    def _record(
        self,
        plan: Plan,
        at: int,
        tree: _Tree,
        ranked: list[tuple[int, ...]],
        rounds: list[ScoringRound],
        rng: np.random.Generator,
    ) -> Record:
        best = ranked[0]
        scores = dict(zip(rounds[-1].paths, rounds[-1].values, strict=True)) if rounds else {}
        pool = tuple(ScoredCandidate(p, tree.answer(p), tree.right[p], scores.get(p), True) for p in ranked)
        spans = len(tree.right)
        usage = {
            "generator": {"generated_tokens": 20 * spans + int(rng.integers(9)), "prefilled_tokens": 90, "cached_tokens": 30 * spans},
            "verifier": {"generated_tokens": 2 * len(scores), "prefilled_tokens": 25 * sum(len(r.paths) for r in rounds)},
        }  # fmt: skip
        odd = rng.random()
        status = "abstained" if odd < 0.01 else "refused" if odd < 0.02 else "answered"
        correct = tree.right[best] and status == "answered"
        return Record(
            key=f"{plan.name}:{at}", cell=plan.name, id=f"q{at}", strategy=plan.strategy, verifier=plan.verifier, settings={},
            seed=0, answer=tree.answer(best), correct=correct, rule="number", extracted=tree.answer(best), status=status,
            valid=odd < 0.98, usage=usage, flops={p: 5e6 * sum(u.values()) for p, u in usage.items()},
            seconds=float(np.random.default_rng().random()), stopped_by="tokens" if odd > 0.995 else None,
            stages=tree.stages(best), wrong_stages=tree.wrong(best), pool=pool, rounds=tuple(rounds),
        )  # fmt: skip


class _Tree:
    """Candidates by path: right only where its parent is, and by chance."""

    def __init__(self, at: int, skill: float, rng: np.random.Generator) -> None:
        self.at, self.skill, self.rng = at, skill, rng
        self.right: dict[tuple[int, ...], bool] = {}
        self.texts: dict[tuple[int, ...], str] = {}
        self.events: list[dict[str, Any]] = []

    def grow(self, path: tuple[int, ...], stage: str) -> None:
        sound = self.right.get(path[:-1], True)
        right = sound and (stage == "SUMMARY" or bool(self.rng.random() < self.skill ** (1 / 3)))
        self.right[path] = right
        self.texts[path] = f"{'true' if right else f'false {self.rng.integers(99)}'} {stage.lower()} {self.at}"
        self.events.append({
            "kind": "candidate", "path": list(path), "stage": stage, "text": self.texts[path], "closed": True,
            "finish_reason": "stop", "tokens": 20, "log_prob": -1.25,
        })  # fmt: skip

    def score(self, verifier: str, paths: list[tuple[int, ...]], values: list[float]) -> None:
        reasons = [""] * len(paths)
        self.events.append(
            {
                "kind": "score",
                "verifier": verifier,
                "paths": [list(p) for p in paths],
                "values": values,
                "reasons": reasons,
            }
        )

    def finish(self, ranked: list[tuple[int, ...]]) -> list[dict[str, Any]]:
        result = {
            "kind": "result",
            "ranking": [list(p) for p in ranked],
            "answer": self.answer(ranked[0]),
            "stopped_by": None,
        }
        return [*self.events, result]

    def answer(self, path: tuple[int, ...]) -> str:
        return self.texts[path]

    def stages(self, path: tuple[int, ...]) -> dict[str, str]:
        return {stage: self.texts[path[: k + 1]] for k, stage in enumerate(STAGES) if path[: k + 1] in self.texts}

    def wrong(self, path: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(stage for k, stage in enumerate(STAGES) if not self.right[path[: k + 1]])
