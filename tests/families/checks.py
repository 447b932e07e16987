"""What has to hold of every family under every engine. Each check raises `Wrong` with what was off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from structdecode.backends.transformers import TransformersBackend
from structdecode.core.many import decode_many
from structdecode.core.protocols import GenerationRequest, Row, Session
from structdecode.core.types import Candidate, Prompt, Sampling, Schema, Stage
from tests.families.oracle import TOLERANCE, Oracle

OPEN = Stage("ANSWER")
FIRST, SECOND = Stage.tagged("CAPTION"), Stage.tagged("CONCLUSION")
SAMPLED = Sampling(temperature=1.3, max_tokens=12)
QUESTION = "How many objects are there?"
SCHEMA = Schema(
    "short",
    tuple(Stage.tagged(name, sampling=Sampling(temperature=1.2, max_tokens=7)) for name in ("CAPTION", "CONCLUSION")),
)


class Wrong(AssertionError):
    """The engine ran to the end and gave something else than the model."""


def noise(width: int, height: int, seed: int = 3) -> Image.Image:
    pixels = torch.randint(0, 255, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy(), "RGB")


WIDE, TALL = noise(60, 40), noise(40, 90, seed=4)


@dataclass(frozen=True)
class Subject:
    backend: TransformersBackend
    oracle: Oracle

    def agree(self, prompt: Prompt, candidates: Sequence[Candidate]) -> None:
        """Raises unless every log-probability is the oracle's."""
        if not any(span.token_ids for candidate in candidates for span in candidate.spans):
            raise Wrong("nothing was written")
        worst = self.oracle.difference(prompt, candidates)
        if not worst <= TOLERANCE:
            raise Wrong(f"log-probabilities off by {worst:.2g}")


async def greedy(subject: Subject, prompt: Prompt, *ways: tuple[list[int], int]) -> None:
    """Written in pieces of these lengths, by so many equal rows, it is what `generate` writes."""
    expected = subject.oracle.greedy(prompt, sum(ways[0][0]))
    for lengths, rows in ways:
        async with subject.backend.open(prompt) as session:
            candidate = Candidate()
            for length in lengths:
                sampling = Sampling(temperature=0, max_tokens=length)
                work = await session.extend([Row(candidate, 0, length)] * rows, GenerationRequest(OPEN, sampling))
                candidate = candidate.extended(work.value[-1], 0)
        if list(candidate.token_ids) != expected:
            same = sum(a == b for a, b in zip(candidate.token_ids, expected, strict=False))
            raise Wrong(f"{same} of {len(expected)} greedy tokens")
    subject.agree(prompt, [candidate])


async def forked(session: Session) -> list[Candidate]:
    """Two stages behind forced tags, forked twice; the second begins from answers of different lengths, and from none."""
    root = Candidate()
    first = await session.extend(
        [Row(root, seed, most) for seed, most in ((1, 3), (2, 12), (3, 7))], GenerationRequest(FIRST, SAMPLED)
    )
    grown = [root.extended(span, i) for i, span in enumerate(first.value)]
    rows = [Row(candidate, seed, 8) for candidate in (root, *grown) for seed in (5, 6)]
    second = await session.extend(rows, GenerationRequest(SECOND, SAMPLED))
    return [row.prefix.extended(span, 0) for row, span in zip(rows, second.value, strict=True)]


async def forks(subject: Subject, prompt: Prompt) -> None:
    async with subject.backend.open(prompt) as session:
        subject.agree(prompt, await forked(session))


async def mixed(subject: Subject, prompt: Prompt) -> None:
    """Stages of many questions at once, with pictures of different sizes: rows of all lengths in one batch."""
    prompts = [
        prompt,
        Prompt("And what of this one, taller than it is wide?", [TALL]),
        Prompt("What is it?", prompt.images),
    ]
    options = {"schema": SCHEMA, "strategy": "best-of-n", "seed": 4}
    async for at, result in decode_many(prompts, backend=subject.backend, **options):
        subject.agree(
            Prompt(SCHEMA.ask(prompts[at]).question, prompts[at].images),
            [ranked.candidate for ranked in result.candidates],
        )


async def judge(subject: Subject, prompt: Prompt) -> None:
    """A verifier's question about the same picture, asked in between; texts are scored as the model's own."""
    question = Prompt(f"Is it right? {QUESTION} A red square and a blue circle, one and one is two.", prompt.images)
    texts = ["<CAPTION> a red square", "I"]
    async with subject.backend.open(prompt) as session:
        before = await session.extend([Row(Candidate(), 1, 6)], GenerationRequest(FIRST, SAMPLED))
        async with session.open(question) as asked:
            scored = (await asked.log_probs(texts)).value
            replies = await asked.extend(
                [Row(Candidate(), seed, 6) for seed in (1, 2)], GenerationRequest(OPEN, SAMPLED)
            )
        rows = [Row(Candidate().extended(before.value[0], 0), seed, 6) for seed in (1, 2)]
        after = await session.extend(rows, GenerationRequest(SECOND, SAMPLED))
    subject.agree(prompt, [row.prefix.extended(span, 0) for row, span in zip(rows, after.value, strict=True)])
    subject.agree(question, [Candidate().extended(span, 0) for span in replies.value])
    expected = subject.oracle.log_probs(question, [subject.backend.codec.encode(text) for text in texts])
    worst = max(
        abs(a - b) for mine, theirs in zip(scored, expected, strict=True) for a, b in zip(mine, theirs, strict=True)
    )
    if not worst <= TOLERANCE:
        raise Wrong(f"texts' log-probabilities off by {worst:.2g}")


async def encoded(subject: Subject, prompt: Prompt) -> None:
    """One picture is encoded once, whoever asks."""
    subject.backend.prefixes.clear()
    async with subject.backend.open(prompt) as session:
        first = await session.log_probs(["I"])
        async with session.open(Prompt("Is it right?", prompt.images)) as asked:
            second = await asked.log_probs(["I"])
    count = first.usage.images_encoded + second.usage.images_encoded
    if count != 1:
        raise Wrong(f"{count} encodings")


async def cached(subject: Subject, prompt: Prompt) -> None:
    """The same prompt again, and one that begins alike: what is kept of the first serves them."""
    for again in (prompt, Prompt(f"{prompt.question} Look again.", prompt.images)):
        await forks(subject, again)


def about(question: str = QUESTION, *pictures: Image.Image) -> Prompt:
    return Prompt(question, list(pictures))


Check = Callable[[Subject], Awaitable[None]]
CHECKS: dict[str, Check] = {
    "greedy": lambda s: greedy(s, about(QUESTION, WIDE), ([24], 1), ([5, 7, 12], 2)),
    "forks": lambda s: forks(s, about(QUESTION, WIDE)),
    "many": lambda s: mixed(s, about(QUESTION, WIDE)),
    "judge": lambda s: judge(s, about(QUESTION, WIDE)),
    "encoded once": lambda s: encoded(s, about(QUESTION, WIDE)),
    "no picture": lambda s: forks(s, about()),
    "two pictures": lambda s: forks(s, about(QUESTION, WIDE, TALL)),
    "prefix cache": lambda s: cached(s, about(QUESTION, WIDE)),
    "long answer": lambda s: greedy(s, about(QUESTION, WIDE), ([25, 25], 1)),
    "long prompt": lambda s: forks(s, about(f"{QUESTION} {'One and one is two, a red square. ' * 12}", WIDE)),
}
