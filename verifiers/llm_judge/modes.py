"""What a judge is asked about candidates, and the scores that its replies come to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from structdecode.backends.openai.errors import BadRequest, Unanswered
from structdecode.backends.openai.requests import ChatMessage, Request
from structdecode.core import seeds
from structdecode.core.border import said
from structdecode.core.problems import shown
from structdecode.core.protocols import Model, Verdict
from structdecode.core.resolution import BY_PRECISION
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers import prompts
from structdecode.verifiers.hints import earlier_stages, newest, same_text, side_by_side
from structdecode.verifiers.llm_judge.client import Charge, JudgeClient
from structdecode.verifiers.llm_judge.reading import JudgeReply, label_probabilities, level_in, ranking_in
from structdecode.verifiers.self_judge import comparison, parse_verdict
from structdecode.verifiers.tournaments import Knockout, RoundRobin

if TYPE_CHECKING:
    from structdecode.verifiers.llm_judge.judge import LlmJudge

_LOG_PROBS: Mapping[str, Any] = {"logprobs": True, "top_logprobs": 20}
"""20 is the most that OpenAI takes, and vLLM's default limit."""


class NoVerdict(Exception):
    """A reply without the verdict that was asked for."""


_FAILED = (NoVerdict, Unanswered, BadRequest)
"""What leaves a candidate unscored, and the run as it is."""


@dataclass(frozen=True)
class Round:
    """A judge at one set of candidates.

    Attributes:
        stop: once set, nothing new is sent.
    """

    judge: LlmJudge
    client: JudgeClient
    prompt: Prompt
    charge: Charge
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, text: str, extra: Mapping[str, Any] = {}) -> JudgeReply:
        """Raises one of `_FAILED`, and what else `JudgeClient.ask` does."""
        pictures = self.prompt.images if self.judge.images else ()
        message = ChatMessage("user", text, pictures, " ".join(picture.digest for picture in pictures))
        request = Request(
            self.judge.model, (message,), self.judge.most_tokens, "check", self.judge.temperature, extra=extra
        )
        found = await self.client.ask(request, self.charge, self.stop)
        if found.reply.refusal:
            raise NoVerdict(f"the judge refuses: {shown(found.reply.refusal)}")
        return found

    def missing(self, what: str, found: JudgeReply) -> NoVerdict:
        cut = f", cut at max_tokens {self.judge.most_tokens}" if found.reply.finish == "length" else ""
        return NoVerdict(f"no {what} in the judge's reply {shown(found.reply.text)}{cut}")

    # ------------------------------------------------------------------ pointwise
    async def pointwise(self, candidates: Sequence[Candidate]) -> list[Score]:
        return list(await asyncio.gather(*(self._graded(candidate) for candidate in candidates)))

    async def _graded(self, candidate: Candidate) -> Score:
        rubric = prompts.RUBRICS.get(candidate.last_stage, "")
        question = prompts.fill(
            self.judge.template or prompts.POINTWISE, rubric=f"{rubric} {prompts.WHOLE_ANSWER_RUBRIC}".strip(),
            question=self.prompt.question, hint=prompts.hint_lines(earlier_stages(candidate)),
            stage=candidate.last_stage.lower(), text=newest(candidate), levels=str(self.judge.levels),
        )  # fmt: skip
        try:
            found = await self._with_log_probs(question)
            return self._level(found)
        except _FAILED as error:
            return Score.unscored(_reason(error))

    async def _with_log_probs(self, question: str) -> JudgeReply:
        """Without them where the server refuses to give any."""
        if self.client.log_probs:
            try:
                return await self.ask(question, _LOG_PROBS)
            except BadRequest as error:
                if "logprob" not in str(error).lower():
                    raise
                self.client.log_probs = False
        return await self.ask(question)

    def _level(self, found: JudgeReply) -> Score:
        """The expected level where there are log-probabilities, else the level that was written; as a share of the highest."""
        levels, written = self.judge.levels, level_in(found.reply.text)
        if written is None or int(written[1]) > levels:
            raise self.missing(f"level from 1 to {levels}", found)
        given = label_probabilities(found.top, levels) if found.top is not None else []
        mass = sum(given)
        if not mass > 0:
            details = {"level": int(written[1]), "label_mass": None}
            reason = f"level {written[1]} of {levels}, without log-probabilities"
            return Score(int(written[1]) / levels, reason, details, resolution=0.0)
        expected = sum(level * value for level, value in enumerate(given, start=1)) / mass
        probabilities = {str(level): value / mass for level, value in enumerate(given, start=1)}
        return Score(
            expected / levels, f"level {expected:.2f} of {levels}",
            {"level": int(written[1]), "label_mass": mass, "probabilities": probabilities},
            resolution=BY_PRECISION["bfloat16"],
        )  # fmt: skip

    # ------------------------------------------------------------------ pairwise
    async def pairwise(self, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        matches = Matches(self)
        kind = Knockout if self.judge.tournament == "knockout" else RoundRobin
        scores = await kind(matches).score(self.prompt, candidates, model)
        return [matches.judged(candidate, score) for candidate, score in zip(candidates, scores, strict=True)]

    # ------------------------------------------------------------------ listwise
    async def listwise(self, candidates: Sequence[Candidate]) -> list[Score]:
        """The share of the others that a candidate stands before, in both orders if there are two."""
        count = len(candidates)
        if count == 1:
            return [Score(1.0, "unopposed", resolution=0.0)]
        rng = np.random.default_rng(seeds.derive("listwise", *(c.path for c in candidates)))
        drawn = rng.permutation(count).tolist()
        orders = [drawn, drawn[::-1]] if self.judge.both_orders else [drawn]
        try:
            places = np.array(await asyncio.gather(*(self._places(candidates, order) for order in orders)))
        except _FAILED as error:
            return [Score.unscored(_reason(error))] * count
        before = places[:, :, None] < places[:, None, :]  # [orders, count, count]
        wins, losses = before.all(axis=0).sum(axis=1), before.all(axis=0).sum(axis=0)
        return [self._place(int(wins[at]), int(losses[at]), count - 1) for at in range(count)]

    async def _places(self, candidates: Sequence[Candidate], order: Sequence[int]) -> list[int]:
        """Of each candidate, from 0, when they are shown in this order."""
        rubric, hint, texts = side_by_side([candidates[at] for at in order])
        listed = "\n".join(f"Response {number}: {text}" for number, text in enumerate(texts, start=1))
        question = prompts.fill(
            self.judge.template or prompts.LISTWISE, rubric=rubric, question=self.prompt.question, hint=hint,
            responses=listed, count=str(len(texts)),
        )  # fmt: skip
        found = await self.ask(question)
        ranking = ranking_in(found.reply.text, len(texts))
        if ranking is None:
            raise self.missing(f"ranking of all {len(texts)}", found)
        best_first = [order[number] for number in ranking]
        return [best_first.index(at) for at in range(len(texts))]

    def _place(self, wins: int, losses: int, others: int) -> Score:
        swaps = {"swaps": others, "swap_consistent": wins + losses} if self.judge.both_orders else {}
        return Score(wins / others, f"before {wins} of {others}", swaps, resolution=0.0)


@dataclass(frozen=True)
class Matches:
    """The comparisons of a round: a `PairwiseJudge` that remembers what became of them.

    Attributes:
        problems: of each candidate's matches, by its id: why there was no verdict, None where there was one.
        swaps: of each candidate's matches in both orders, whether both verdicts were the same.
    """

    round: Round
    problems: dict[int, list[str | None]] = field(default_factory=lambda: defaultdict(list))
    swaps: dict[int, list[bool]] = field(default_factory=lambda: defaultdict(list))

    async def compare(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
        problem: str | None = None
        try:
            verdict = await self._verdict(first, second)
        except _FAILED as error:
            problem = _reason(error)
            verdict = Verdict(None, problem)
        for candidate in (first, second):
            self.problems[id(candidate)].append(problem)
        return verdict

    async def _verdict(self, first: Candidate, second: Candidate) -> Verdict:
        if same_text(first, second):
            return Verdict(None, "the two are the same")
        if not self.round.judge.both_orders:
            return await self._ask(first, second)
        verdict, turned = await asyncio.gather(self._ask(first, second), self._ask(second, first))
        agree = verdict.winner != turned.winner
        for candidate in (first, second):
            self.swaps[id(candidate)].append(agree)
        return verdict if agree else Verdict(None, "the verdict depends on the order")

    async def _ask(self, first: Candidate, second: Candidate) -> Verdict:
        template = self.round.judge.template or prompts.JUDGE
        found = await self.round.ask(comparison(self.round.prompt.question, first, second, template))
        verdict = parse_verdict(found.reply.text)
        if verdict.winner is None:
            raise self.round.missing("verdict", found)
        return verdict

    def judged(self, candidate: Candidate, score: Score) -> Score:
        """The tournament's score, with what became of the candidate's matches; none where no match came to a verdict."""
        problems, swaps = self.problems[id(candidate)], self.swaps[id(candidate)]
        if problems and None not in problems:
            return Score.unscored(str(problems[0]))
        both = {"swaps": len(swaps), "swap_consistent": sum(swaps)} if self.round.judge.both_orders else {}
        return replace(score, details={**score.details, **both})


def _reason(error: Exception) -> str:
    """In one line."""
    return said(error).partition(": ")[2] if isinstance(error, NoVerdict) else said(error)
