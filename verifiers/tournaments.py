"""From pairwise verdicts to scores."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from structdecode.core import seeds
from structdecode.core.protocols import Model, PairwiseJudge, Verdict
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class Knockout:
    """Random pairs, losers out, until one is left: LLaVA-o1's own. The score is the share of rounds survived.

    A match without a readable verdict sends the one drawn first on, is counted as undecided and is nobody's win.
    Pairing is drawn from the candidates' paths, so the same search pairs the same way.
    """

    judge: PairwiseJudge

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        order = list(_rng(candidates).permutation(len(candidates)))
        wins, undecided, rounds = [0] * len(candidates), [0] * len(candidates), 0
        reached = [0] * len(candidates)
        while len(order) > 1:
            rounds += 1
            pairs = list(zip(order[::2], order[1::2], strict=False))
            verdicts = await asyncio.gather(
                *(self.judge.compare(prompt, candidates[a], candidates[b], model) for a, b in pairs)
            )
            through = [order[-1]] if len(order) % 2 else []
            for (a, b), verdict in zip(pairs, verdicts, strict=True):
                winner = (a, b)[verdict.winner or 0]
                wins[winner] += verdict.winner is not None
                undecided[a] += verdict.winner is None
                undecided[b] += verdict.winner is None
                through.append(winner)
            for index in through:
                reached[index] = rounds
            order = through
        return [_score(reached[i] / max(rounds, 1), wins[i], undecided[i], rounds) for i in range(len(candidates))]


@dataclass(frozen=True)
class RoundRobin:
    """Every pair is judged; the score is the share of matches won, an undecided one counting for neither."""

    judge: PairwiseJudge

    def __post_init__(self) -> None:
        check_settings(self)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        pairs = list(itertools.combinations(range(len(candidates)), 2))
        flip = _rng(candidates).random(len(pairs)) < 0.5  # who is shown first is random, against position bias
        drawn = [(b, a) if swap else (a, b) for (a, b), swap in zip(pairs, flip, strict=True)]
        verdicts: list[Verdict] = await asyncio.gather(
            *(self.judge.compare(prompt, candidates[a], candidates[b], model) for a, b in drawn)
        )
        wins, undecided = [0] * len(candidates), [0] * len(candidates)
        for pair, verdict in zip(drawn, verdicts, strict=True):
            if verdict.winner is not None:
                wins[pair[verdict.winner]] += 1
            else:
                for index in pair:
                    undecided[index] += 1
        matches = len(candidates) - 1
        return [_score(wins[i] / max(matches, 1), wins[i], undecided[i], matches) for i in range(len(candidates))]


def _rng(candidates: Sequence[Candidate]) -> np.random.Generator:
    return np.random.default_rng(seeds.derive("tournament", *(candidate.path for candidate in candidates)))


def _score(value: float, wins: int, undecided: int, matches: int) -> Score:
    if not matches:
        return Score(1.0, "unopposed", {"wins": 0, "unparseable": 0}, resolution=0.0)
    reason = f"{wins} won, {undecided} without a readable verdict" if undecided else f"{wins} won"
    return Score(value, reason, {"wins": wins, "unparseable": undecided}, resolution=0.0)
