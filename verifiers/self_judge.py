"""The model compares two of its own answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from structdecode.core.protocols import Model, Verdict
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Path, Prompt, Sampling, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.hints import same_text, shown, side_by_side
from structdecode.verifiers.tournaments import Knockout, RoundRobin

_Checks = dict[Path, asyncio.Future[bool | None]]
"""Of reasonings looked at alone: whether each is correct, as it becomes known."""

_CHOICE = re.compile(r"\bI\s+choose\s+response\s+\**([12])\b", re.IGNORECASE)


@dataclass(frozen=True)
class SelfJudge:
    """LLaVA-o1's judge: pairwise, a rubric per stage, earlier stages as a hint, reasoning checked alone first.

    Upstream: `inference/demo/simple_inference.py`. Candidates that differ in the newest stage only are compared
    on that stage, others (best-of-N) as whole answers. A reply without a verdict wins nothing and is counted.

    Attributes:
        tournament: how verdicts become scores.
        both_orders: judge each pair twice, in both orders; where they disagree nobody wins.
        pre_check: look at each REASONING alone, without the picture; an incorrect one loses to a correct one.
        temperature, top_p, max_tokens: sampling of the judge's reply.
    """

    tournament: Literal["knockout", "round-robin"] = "knockout"
    both_orders: bool = False
    pre_check: bool = True
    temperature: float = 0.6
    top_p: float = 0.9
    max_tokens: int = 512

    def __post_init__(self) -> None:
        check_settings(self)
        _ = self._sampling  # raises ConfigError for a value out of range, before anything is judged

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        kind = Knockout if self.tournament == "knockout" else RoundRobin
        return await kind(_Round(self)).score(prompt, candidates, model)

    async def compare(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
        """Which of two candidates is better: `Verdict.winner` 0 or 1, None where the judge does not say."""
        return await _Round(self).compare(prompt, first, second, model)

    async def _compare(
        self, prompt: Prompt, first: Candidate, second: Candidate, model: Model, checks: _Checks
    ) -> Verdict:
        if same_text(first, second):
            return Verdict(None, "the two are the same")
        if self.pre_check and first.last_stage == "REASONING" == second.last_stage:
            for candidate in (first, second):
                if candidate.path not in checks:
                    checks[candidate.path] = asyncio.ensure_future(self._is_correct(prompt, candidate, model))
            found = await asyncio.gather(*(checks[candidate.path] for candidate in (first, second)))
            if set(found) == {True, False}:
                return Verdict(found.index(True), "the other's reasoning does not follow from its caption")
        verdict = await self._ask(prompt, first, second, model)
        if not self.both_orders:
            return verdict
        turned = await self._ask(prompt, second, first, model)
        if verdict.winner is None or turned.winner is None or verdict.winner == turned.winner:
            return Verdict(None, "the verdict depends on the order, or one is missing")
        return verdict

    @property
    def _sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, max_tokens=self.max_tokens)

    async def _ask(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
        question = Prompt(comparison(prompt.question, first, second), prompt.images)
        replies = await model.complete(question, sampling=self._sampling)
        return parse_verdict(replies[0].text if replies else "")

    async def _is_correct(self, prompt: Prompt, candidate: Candidate, model: Model) -> bool | None:
        question = prompts.fill(prompts.PRE_CHECK, **shown(prompt.question, candidate))
        replies = await model.complete(Prompt(question), sampling=self._sampling)
        words = re.findall(r"\b(?:in)?correct\b", replies[0].text.lower()) if replies else []
        return words[-1] == "correct" if words else None


@dataclass(frozen=True)
class _Round:
    """A judge at one set of candidates: each is checked alone once, however many comparisons it comes to."""

    judge: SelfJudge
    checks: _Checks = field(default_factory=dict)

    async def compare(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
        return await self.judge._compare(prompt, first, second, model, self.checks)


def comparison(question: str, first: Candidate, second: Candidate, template: str = prompts.JUDGE) -> str:
    """The judge's prompt for two candidates."""
    rubric, hint, (one, other) = side_by_side([first, second])
    return prompts.fill(template, rubric=rubric, question=question, hint=hint, first=one, second=other)


def parse_verdict(reply: str) -> Verdict:
    """The last "I choose response 1" or "2" of a reply; what it quotes before does not count."""
    choices = _CHOICE.findall(reply)
    return Verdict(int(choices[-1]) - 1, reply) if choices else Verdict(None, f"no verdict in {reply[:200]!r}")
