"""What a run would cost, told without a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from structdecode.backends.openai.errors import BadRequest
from structdecode.backends.openai.requests import ChatMessage, Request
from structdecode.core.errors import ImageError, PromptError
from structdecode.training.annotation.annotator import Annotator
from structdecode.training.annotation.costs import Prices
from structdecode.training.annotation.errors import NotInJournal
from structdecode.training.annotation.journal import Journal
from structdecode.training.annotation.sources import Item

ANSWER_TOKENS = 450
"""Of a four-stage answer, until the journal knows better."""

_JUDGE_TOKENS = (400, 4)
"""Of the judge's prompt, picture not shown, and of its one word."""

_FEEDBACK_TOKENS = 80


@dataclass(frozen=True)
class Estimate:
    """Least: every first answer is accepted by rule. Most: every attempt is used up, and the judge asked each time.

    Attributes:
        undecided: records that need requests; the others' replies are in the journal.
    """

    records: int
    undecided: int
    requests: tuple[int, int]
    prompt_tokens: tuple[int, int]
    completion_tokens: tuple[int, int]
    cost: tuple[float, float]

    def lines(self, known: bool) -> list[str]:
        names = ("requests", "prompt tokens", "completion tokens")
        spans = (self.requests, self.prompt_tokens, self.completion_tokens)
        found = [f"records to annotate: {self.undecided:,} of {self.records:,} (the others are paid for)"]
        found += [
            f"{name}: {least:,} (each first answer accepted by rule) to {most:,} (all attempts used, all judged)"
            for name, (least, most) in zip(names, spans, strict=True)
        ]
        cost = f"cost: {self.cost[0]:,.2f} to {self.cost[1]:,.2f}" if known else "cost: give --price-in and --price-out"
        return [*found, cost]


async def estimate(items: Iterable[Item], annotator: Annotator, journal: Journal, prices: Prices) -> Estimate:
    """``annotator`` has a `JournalClient`: what it meets that is not paid for is what there is to ask."""
    paid = journal.spent("answer")
    written = round(paid.completion_tokens / paid.requests) if paid.requests else ANSWER_TOKENS
    records = undecided = 0
    least, most = [0, 0, 0], [0, 0, 0]  # requests, prompt tokens, completion tokens
    judged = 0
    for item in items:
        records += 1
        try:
            await annotator.annotate(item)
            continue
        except NotInJournal:
            undecided += 1
        except (BadRequest, ImageError, PromptError):  # will be in rejected.jsonl, at no cost
            continue
        for number in range(len(item.turns)):
            sent = _prompt_tokens(item, number, annotator) + number * written
            _add(least, 1, sent, written)
            for attempt in range(annotator.retries + 1):
                _add(most, 1, sent + attempt * (written + _FEEDBACK_TOKENS), written)
                if annotator.answers.judge is not None:
                    judged += 1
    totals = [_cost(prices, least, 0), _cost(prices, most, judged)]
    most = [most[0] + judged, most[1] + judged * _JUDGE_TOKENS[0], most[2] + judged * _JUDGE_TOKENS[1]]
    requests, sent_, written_ = zip(least, most, strict=True)
    return Estimate(records, undecided, requests, sent_, written_, (totals[0], totals[1]))


def _prompt_tokens(item: Item, number: int, annotator: Annotator) -> int:
    """Of turn ``number``'s first attempt, without the answers of the turns before it."""
    messages: list[ChatMessage] = annotator.opening(item)
    messages += [annotator.asking(item, earlier) for earlier in range(number + 1)]
    return Request(annotator.model, tuple(messages), annotator.max_tokens).prompt_tokens


def _add(totals: list[int], *amounts: int) -> None:
    for at, amount in enumerate(amounts):
        totals[at] += amount


def _cost(prices: Prices, totals: list[int], judged: int) -> float:
    judge = prices.of("check", judged * _JUDGE_TOKENS[0], judged * _JUDGE_TOKENS[1])
    return prices.of("answer", totals[1], totals[2]) + judge
