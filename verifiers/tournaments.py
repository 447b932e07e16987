"""From pairwise verdicts to scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from structdecode import seeds
from structdecode.protocols import Model, PairwiseJudge, Verdict
from structdecode.types import Candidate, Prompt, Score
from structdecode.verifiers.asking import together


@dataclass(frozen=True)
class Tie(Verdict):
    """Nobody wins, and that was read, not guessed: the two are the same, or the judge contradicts itself."""

    winner: None = None


@dataclass
class Tally:
    """A candidate's matches. ``undecided`` counts all without a winner, ``unparseable`` the unreadable ones of them."""

    wins: int = 0
    undecided: int = 0
    unparseable: int = 0

    def score(self, value: float, reason: str = "") -> Score:
        words = f"{self.wins} won" + (f", {self.undecided} undecided" if self.undecided else "")
        words += f", {self.unparseable} of them without a readable verdict" if self.unparseable else ""
        return Score(value, reason or words, dict(vars(self)))


@dataclass(frozen=True)
class Knockout:
    """Random pairs, losers out, until one is left: LLaVA-o1's own. The score is the share of rounds survived.

    Upstream: `inference/demo/simple_inference.py`. A match without a winner sends the one drawn first on, is
    counted as undecided and is nobody's win. Pairing is drawn from the candidates' paths, so the same search
    pairs the same way. One left over has a bye; one alone is unopposed and scores 1.
    """

    judge: PairwiseJudge

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        tallies, reached, rounds = [Tally() for _ in candidates], [0] * len(candidates), 0
        order = [int(i) for i in _rng(candidates).permutation(len(candidates))]
        while len(order) > 1:
            rounds += 1
            pairs = list(zip(order[::2], order[1::2], strict=False))
            bye = order[2 * len(pairs) :]
            verdicts = await _compare(self.judge, prompt, candidates, pairs, model)
            _count(pairs, verdicts, tallies)
            order = bye + [pair[verdict.winner or 0] for pair, verdict in zip(pairs, verdicts, strict=True)]
            for index in order:
                reached[index] = rounds
        if not rounds:
            return [tally.score(1.0, "unopposed") for tally in tallies]
        return [tally.score(reached[i] / rounds) for i, tally in enumerate(tallies)]


@dataclass(frozen=True)
class RoundRobin:
    """Every pair is judged; the score is the share of matches won. A match without a winner counts for neither."""

    judge: PairwiseJudge

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        tallies = [Tally() for _ in candidates]
        pairs = list(itertools.combinations(range(len(candidates)), 2))
        flip = _rng(candidates).random(len(pairs)) < 0.5  # who is shown first is random, against position bias
        drawn = [(b, a) if swap else (a, b) for (a, b), swap in zip(pairs, flip, strict=True)]
        _count(drawn, await _compare(self.judge, prompt, candidates, drawn, model), tallies)
        if not pairs:
            return [tally.score(1.0, "unopposed") for tally in tallies]
        return [tally.score(tally.wins / (len(candidates) - 1)) for tally in tallies]


async def _compare(
    judge: PairwiseJudge,
    prompt: Prompt,
    candidates: Sequence[Candidate],
    pairs: Sequence[tuple[int, int]],
    model: Model,
) -> list[Verdict]:
    """One round: all its matches at once."""
    return await together(*(judge.compare(prompt, candidates[a], candidates[b], model) for a, b in pairs))


def _count(pairs: Sequence[tuple[int, int]], verdicts: Sequence[Verdict], tallies: Sequence[Tally]) -> None:
    for pair, verdict in zip(pairs, verdicts, strict=True):
        if verdict.winner is not None:
            tallies[pair[verdict.winner]].wins += 1
            continue
        for index in pair:
            tallies[index].undecided += 1
            tallies[index].unparseable += not isinstance(verdict, Tie)


def _rng(candidates: Sequence[Candidate]) -> np.random.Generator:
    return np.random.default_rng(seeds.derive("tournament", *(candidate.path for candidate in candidates)))
