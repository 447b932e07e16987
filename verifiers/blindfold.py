"""Does the model come to the same answer when it cannot look?"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from structdecode.core.asking import check_rows
from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Sampling, Score, Span
from structdecode.matching.keys import prompt_key
from structdecode.verifiers import prompts

TEMPLATE = """\
{question}
{shown}Answer directly."""


@dataclass(frozen=True)
class Blindfold:
    """Asks the question again without the picture, with the stages that say what is in it, and holds the answers together.

    A caption that has all that the question needs leads to the sighted answer; one that does not, or that the answer does
    not rest on, leads elsewhere. As a reward for training: Vision-SR1 (arXiv 2508.19652), RACRO (arXiv 2506.04559), MoCA
    (arXiv 2605.14054), where the blind answer is held against the reference. While decoding there is none, and it is held
    against the candidate's own. No work of the vision tower; candidates that share the stages shown are asked about once.

    The details say where it went wrong: ``blind`` is what the model says without the picture, ``agrees`` whether that is
    the sighted answer, ``probability`` what the sighted answer has without the picture. Where the two disagree, the caption
    lacks something or the reasoning left it (bad thinking); where they agree and are wrong, the caption is (bad seeing).

    A candidate without an answer is scored by how sure the blind model is: the probability of its greedy answer, or the
    largest share of its samples that give one answer. One without the last of ``shown`` has no score.

    Attributes:
        read: ``probability``: of the sighted answer's text as the reply, by one forward pass; ``agreement``: the share of
            ``samples`` blind replies that give the sighted answer, by the rules of answer matching.
        shown: stages that the blind model is shown. answer: the stage with the answer.
        normalise: take the probability per token (the geometric mean), so that long answers are not held less likely.
        samples, temperature, top_p, max_tokens: of the blind replies; ``probability`` reads the greedy one.
        diagnose: also ask for what only the details need. Without it ``probability`` generates nothing for an answer.
        control: also ask with the question alone: ``alone`` is the same score without any caption, ``gain`` what the
            caption adds to it.
        template: the blind question, with ``{question}`` and ``{shown}``.
    """

    read: Literal["probability", "agreement"] = "probability"
    shown: tuple[str, ...] = ("SUMMARY", "CAPTION")
    answer: str = "CONCLUSION"
    normalise: bool = True
    samples: int = 5
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 64
    diagnose: bool = True
    control: bool = False
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        check_settings(self)
        _ = self._sampling  # raises ConfigError for a value out of range
        check_rows(self.samples, "blindfold: samples")
        if not self.shown or self.answer in self.shown:
            raise ConfigError(f"blindfold: shown must be stages, {self.answer} not among them, not {list(self.shown)}")
        if self.read == "agreement" and not self.temperature:
            raise ConfigError("blindfold: agreement of samples needs a temperature above 0: at 0 they are all the same")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        groups: dict[str, list[int]] = defaultdict(list)
        for at, candidate in enumerate(candidates):
            if candidate.stages.get(self.shown[-1]):
                groups[self._question(prompt, candidate.stages)].append(at)
        answers = [candidate.stages.get(self.answer) or None for candidate in candidates]
        asked = [(question, [answers[at] for at in group]) for question, group in groups.items()]
        if self.control and groups:
            asked.append((self._question(prompt, {}), [answers[at] for group in groups.values() for at in group]))
        found = await asyncio.gather(*(self._ask(prompt, *each, model) for each in asked))
        alone = found[-1] if self.control and groups else None
        scores = [Score.unscored(f"no {self.shown[-1]} yet")] * len(candidates)
        for group, blind in zip(groups.values(), found, strict=False):  # the one behind them is the control
            for at in group:
                scores[at] = self._score(prompt, answers[at], blind, alone)
        return scores

    @property
    def _sampling(self) -> Sampling:
        temperature = self.temperature if self.read == "agreement" else 0.0
        return Sampling(temperature, self.top_p, max_tokens=self.max_tokens)

    def _question(self, prompt: Prompt, stages: Mapping[str, str]) -> str:
        shown = {name: stages[name] for name in self.shown if name in stages}
        return prompts.fill(self.template, question=prompt.question, shown=prompts.hint_lines(shown))

    async def _ask(self, prompt: Prompt, question: str, answers: Sequence[str | None], model: Model) -> _Blind:
        """``answers``: the sighted ones whose probability may be wanted; None for a candidate that has none yet."""
        blind = replace(prompt, question=question, images=())
        texts = [text for text in dict.fromkeys(answers) if text is not None]
        log_probs: list[list[float]] = []
        replies: list[Span] = []
        if texts and (self.read == "probability" or self.diagnose):
            log_probs = await model.log_probs(blind, texts)
        if self.read == "agreement" or self.diagnose or None in answers:
            n = self.samples if self.read == "agreement" else 1
            replies = await model.complete(blind, n=n, sampling=self._sampling)
        return _Blind(dict(zip(texts, map(self._probability, log_probs), strict=False)), replies)

    def _probability(self, log_probs: Sequence[float]) -> float:
        return math.exp(math.fsum(log_probs) / (max(len(log_probs), 1) if self.normalise else 1))

    def _score(self, prompt: Prompt, answer: str | None, blind: _Blind, alone: _Blind | None) -> Score:
        value, reason = self._value(prompt, answer, blind)
        if value is None:
            return Score.unscored(reason)
        details: dict[str, Any] = {}
        if blind.replies:
            details["blind"] = blind.favourite(prompt)
        if answer is not None and blind.replies:
            details["agrees"] = prompt_key(details["blind"], prompt) == prompt_key(answer, prompt) is not None
        if answer in blind.probabilities:
            details["probability"] = blind.probabilities[answer]
        if alone is not None and (without := self._value(prompt, answer, alone)[0]) is not None:
            details |= {"alone": without, "gain": value - without}
        return Score(value, reason, details, resolution=0.0 if self.read == "agreement" else None)

    def _value(self, prompt: Prompt, answer: str | None, blind: _Blind) -> tuple[float | None, str]:
        """The score, or why there is none."""
        if self.read == "agreement":
            keys = [prompt_key(reply.text, prompt) for reply in blind.replies]
            if answer is None:
                votes = Counter(key for key in keys if key is not None).most_common(1)
                return (votes[0][1] if votes else 0) / max(len(keys), 1), "no answer yet: how many blind replies agree"
            sighted = prompt_key(answer, prompt)
            if sighted is None:
                return None, f"{self.answer} gives no answer"
            agreed = keys.count(sighted)
            return agreed / max(len(keys), 1), f"{agreed} of {len(keys)} blind replies agree"
        if answer is not None:
            return blind.probabilities[answer], "how probable the answer is without the picture"
        if not blind.replies or not blind.replies[0].log_probs:
            return None, "no answer yet, and no blind one"
        return self._probability(blind.replies[0].log_probs), "no answer yet: how sure the blind one is"


@dataclass(frozen=True)
class _Blind:
    """What the model makes of one text without the picture: of sighted answers their probabilities, and its own replies."""

    probabilities: Mapping[str | None, float]
    replies: Sequence[Span]

    def favourite(self, prompt: Prompt) -> str:
        """The reply that most others agree with, the first of these."""
        keys = [prompt_key(reply.text, prompt) for reply in self.replies]
        counts = Counter(key for key in keys if key is not None)
        most = max(counts, key=lambda key: counts[key], default=None)
        return self.replies[keys.index(most)].text
