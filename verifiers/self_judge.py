"""The model compares two of its own answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from structdecode.errors import ConfigError
from structdecode.protocols import Model, Verdict
from structdecode.types import Candidate, Prompt, Sampling, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.asking import together
from structdecode.verifiers.hints import before_newest, earlier_stages, newest, tagged
from structdecode.verifiers.tournaments import Knockout, RoundRobin, Tie

Scope = Literal["auto", "stage", "answer"]

_CHOICE = re.compile(
    r"\bI\s+choose\s+response\s+\**([12])\b(\**\s+or\s+(?:I\s+choose\s+)?(?:response\s+)?\**[12]\b)?", re.IGNORECASE
)
"""A choice, and what makes it none: "... or I choose response 2" only repeats what the judge was told to say."""


@dataclass(frozen=True)
class SelfJudge:
    """LLaVA-o1's judge: pairwise, a rubric per stage, earlier stages as a hint, reasoning checked alone first.

    arXiv 2411.10440, appendix on the judge; upstream: `inference/demo/simple_inference.py`. A reply without a
    verdict wins nothing and is counted (`tournaments`).

    Attributes:
        tournament: how verdicts become scores.
        both_orders: judge each pair twice, in both orders; where they disagree nobody wins.
        pre_check: look at each REASONING alone, without the picture; an incorrect one loses to a correct one.
        scope: ``stage`` compares the newest stages, ``answer`` all that is written (best-of-N); ``auto`` takes
            ``stage`` where all candidates of a round share everything before their newest stage.
        temperature, top_p, max_tokens: sampling of the judge's reply; temperature 0 is greedy.
    """

    tournament: Literal["knockout", "round-robin"] = "knockout"
    both_orders: bool = False
    pre_check: bool = True
    scope: Scope = "auto"
    temperature: float = 0.6
    top_p: float = 0.9
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if self.tournament not in ("knockout", "round-robin"):
            raise ConfigError(f"self-judge: tournament must be knockout or round-robin, not {self.tournament!r}")
        if self.scope not in ("auto", "stage", "answer"):
            raise ConfigError(f"self-judge: scope must be auto, stage or answer, not {self.scope!r}")
        _ = self._sampling  # raises on a value out of range

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        kind = Knockout if self.tournament == "knockout" else RoundRobin
        judge = replace(self, scope=resolve(self.scope, candidates))
        return await kind(judge).score(prompt, candidates, model)

    async def compare(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
        """Which of two candidates is better: `Verdict.winner` 0 or 1, None where the judge does not say."""
        if first.stages == second.stages:
            return Tie(reason="the two are the same")
        if self.pre_check and all(c.last_stage == "REASONING" and "CAPTION" in c.stages for c in (first, second)):
            checks = await together(*(self._is_correct(prompt, c, model) for c in (first, second)))
            if set(checks) == {True, False}:
                return Verdict(checks.index(True), "the other's reasoning does not follow from its caption")
        if not self.both_orders:
            return await self._ask(prompt, first, second, model)
        verdict, turned = await together(
            self._ask(prompt, first, second, model), self._ask(prompt, second, first, model)
        )
        if verdict.winner is None or turned.winner is None:
            return verdict if verdict.winner is None else turned
        return verdict if verdict.winner != turned.winner else Tie(reason="the verdict depends on the order")

    @property
    def _sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, max_tokens=self.max_tokens)

    async def _ask(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
        question = Prompt(comparison(prompt.question, first, second, self.scope), prompt.images)
        replies = await model.complete(question, sampling=self._sampling)
        return parse_verdict(replies[0].text if replies else "")

    async def _is_correct(self, prompt: Prompt, candidate: Candidate, model: Model) -> bool | None:
        """What the pre-check says, None where it cannot be read."""
        question = prompts.fill(
            prompts.PRE_CHECK, question=prompt.question, hint=prompts.hint_lines(earlier_stages(candidate)),
            stage=candidate.last_stage.lower(), text=newest(candidate),
        )  # fmt: skip
        replies = await model.complete(Prompt(question), sampling=self._sampling)
        words = re.findall(r"\b(?:in)?correct\b", replies[0].text.lower()) if replies else []
        return words[-1] == "correct" if words else None


def resolve(scope: Scope, candidates: Sequence[Candidate]) -> Scope:
    """``stage`` or ``answer`` for ``auto``."""
    if scope != "auto" or not candidates:
        return scope
    one = candidates[0]
    alike = all(c.last_stage == one.last_stage and before_newest(c) == before_newest(one) for c in candidates)
    return "stage" if alike else "answer"


def comparison(question: str, first: Candidate, second: Candidate, scope: Scope = "auto") -> str:
    """The judge's prompt for two candidates.

    By stage, the hint is what both share of the earlier stages; where they differ in one of these, it is shown with
    the newest stage, tags and all, as in a whole answer.
    """
    if resolve(scope, (first, second)) == "answer":
        rubric, hint, texts = prompts.WHOLE_ANSWER_RUBRIC, "", (first.text, second.text)
    else:
        rubric = prompts.RUBRICS.get(first.last_stage, prompts.WHOLE_ANSWER_RUBRIC)
        shared = earlier_stages(first).items() & earlier_stages(second).items()
        hint = prompts.hint_lines({n: t for n, t in first.stages.items() if (n, t) in shared})
        texts = _responses(first, second)
    return prompts.fill(prompts.JUDGE, rubric=rubric, question=question, hint=hint, first=texts[0], second=texts[1])


def _responses(first: Candidate, second: Candidate) -> tuple[str, str]:
    before = before_newest(first), before_newest(second)
    differing = {name for name, _ in before[0].items() ^ before[1].items()}
    if not differing and first.last_stage == second.last_stage:
        return newest(first), newest(second)
    return tagged(first, {*differing, first.last_stage}), tagged(second, {*differing, second.last_stage})


def parse_verdict(reply: str) -> Verdict:
    """The last "I choose response 1" or "2" of a reply; what it quotes before does not count."""
    choices = [number for number, alternative in _CHOICE.findall(reply) if not alternative]
    return Verdict(int(choices[-1]) - 1, reply) if choices else Verdict(None, f"no verdict in {reply[:200]!r}")
