"""A model as a second opinion on the answers that the rules find wrong, at a cost that is counted apart."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from structdecode import matching
from structdecode.core.asking import MeteredModel
from structdecode.core.budget import Budget, Meter, Usage
from structdecode.core.errors import StructdecodeError
from structdecode.core.protocols import Backend, Model
from structdecode.core.types import Prompt
from structdecode.evaluation.isolation import isolated
from structdecode.matching.types import Match, Question


@dataclass(frozen=True)
class Judging:
    """Asks a backend's model about a question's answers.

    Attributes:
        digest: of the model, for the keys of what it judged.
    """

    backend: Backend
    digest: str
    judge: matching.LLMJudge = field(default_factory=matching.LLMJudge)

    async def matches(self, texts: Collection[str], question: Question, seed: int) -> tuple[dict[str, Match], Usage]:
        """The match of each text, asked about once, and what that cost.

        Where the judge cannot be asked (an answer longer than its context) the rules' verdict stays, under the rule
        ``judge:failed``.
        """
        meter = Meter(Budget())
        async with (
            isolated(self.backend).open(Prompt(question.text)) as session,
            MeteredModel(session, meter, (seed, question.id)) as model,
        ):
            found = await asyncio.gather(*(self._match(text, question, model) for text in texts))
        return dict(zip(texts, found, strict=True)), meter.parts["verifier"]

    async def _match(self, text: str, question: Question, model: Model) -> Match:
        try:
            return await self.judge.match(text, question, model)
        except StructdecodeError:
            return replace(matching.match(text, question), rule="judge:failed")
