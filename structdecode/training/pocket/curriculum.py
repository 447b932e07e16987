"""What the pocket model is given at each step of its training, and its loss.

First it learns to answer, then to judge as well. Half-way, a pool of the model's own sampled answers, marked
by the world's truth, takes the place of most corrupted ones, so that the verifier learns the errors that the
generator makes (Cobbe et al., arXiv 2110.14168).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from structdecode.backends.transformers import TransformersBackend
from structdecode.core.engine import run_sync
from structdecode.core.many import decode_many
from structdecode.core.results import Result
from structdecode.core.types import Prompt
from structdecode.pocket import world
from structdecode.strategies.best_of_n import BestOfN
from structdecode.training.pocket import examples
from structdecode.training.pocket.examples import Attempt, Encoded, Example
from structdecode.verifiers.log_prob import LogProb

IMAGE_AT = 2
"""Where the image token is in every prompt: behind <|bos|> and <|user|>."""

WEIGHTS = {"answers": 1.0, "verdicts": 0.4, "comparisons": 0.3, "pre_checks": 0.1}
"""Of the losses of a step's groups."""

TOGETHER = 20
"""Sequences in one forward pass."""

TWO_SAMPLES = BestOfN(n=2, temperature=1.0, top_p=1.0, max_tokens=120, verifier=LogProb())


@dataclass(frozen=True)
class Plan:
    """A step takes ``batch`` answers until ``verify_from`` (a share of the steps), then ``answers``, ``verdicts``, ..."""

    steps: int
    batch: int
    seed: int
    answers: int = 36
    verdicts: int = 32
    comparisons: int = 12
    pre_checks: int = 4
    verify_from: float = 0.35
    own_samples_from: float = 0.5
    own_samples_every: int = 8
    own_samples_batch: int = 32
    pool: int = 3000


class Curriculum:
    """Lessons step by step. They depend on all that was drawn before, so they are made in order, never ahead."""

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerFast) -> None:
        self.plan, self.tokenizer = plan, tokenizer
        self.rng = np.random.default_rng(plan.seed)
        self.scenes = world.scenes("train", plan.seed)
        self.pool: deque[tuple[Attempt, Attempt]] = deque(maxlen=plan.pool)
        self.drawn = 0

    def scene(self) -> world.Scene:
        self.drawn += 1
        return next(self.scenes)

    def attempts(self) -> tuple[Attempt, Attempt]:
        """Two attempts at one question, at least one of them wrong where that can be had."""
        if self.pool and self.rng.random() < 0.7:
            pair = self.pool[int(self.rng.integers(len(self.pool)))]
            return pair if self.rng.random() < 0.5 else (pair[1], pair[0])
        scene = self.scene()
        wrong = examples.corrupted_attempt(scene, self.rng)
        draw = self.rng.random()
        other = examples.true_attempt(scene) if draw < 0.8 else examples.corrupted_attempt(scene, self.rng)
        return (wrong, other) if self.rng.random() < 0.5 else (other, wrong)

    def groups(self, step: int) -> dict[str, list[Encoded]]:
        """One step's sequences, grouped by length and by whether there is a picture."""
        plan, rng = self.plan, self.rng
        if step < plan.verify_from * plan.steps:
            return {"answers": [self._encoded(examples.answering(self.scene(), rng)) for _ in range(plan.batch)]}
        answers = [examples.answering(self.scene(), rng) for _ in range(plan.answers)]
        verdicts = [examples.yes_no(self.attempts()[0], rng) for _ in range(plan.verdicts)]
        checks = [examples.pre_check(self.attempts()[0], rng) for _ in range(plan.pre_checks)]
        comparisons: list[Example] = []
        while len(comparisons) < plan.comparisons:
            example = examples.comparison(*self.attempts(), rng)
            if example is not None:
                comparisons.append(example)
        groups = {"answers": answers, "verdicts": verdicts, "comparisons": comparisons, "pre_checks": checks}
        return {name: [self._encoded(example) for example in group] for name, group in groups.items()}

    def _encoded(self, example: Example) -> Encoded:
        return examples.encode(example, self.tokenizer)

    # ---------------------------------------------------------- its own answers
    def samples_due(self, step: int) -> bool:
        plan = self.plan
        return step >= plan.own_samples_from * plan.steps and step % plan.own_samples_every == 0

    def sample_own(self, model: Any, processor: Any, step: int) -> None:
        """Two sampled answers to each of a batch of new training questions go into the pool if one is wrong."""
        scenes = [self.scene() for _ in range(self.plan.own_samples_batch)]
        for scene, stages in zip(scenes, two_samples(model, processor, scenes, self.plan.seed + step), strict=True):
            pair = [Attempt(scene, found) for found in stages if found is not None]
            if len(pair) == 1 or (len(pair) == 2 and pair[0].right and pair[1].right):
                pair = [pair[0], examples.true_attempt(scene)]
            if len(pair) == 2 and pair[0].stages == pair[1].stages and not pair[0].right:
                pair[1] = examples.true_attempt(scene)
            if len(pair) == 2:
                self.pool.append((pair[0], pair[1]))

    # ---------------------------------------------------------- to go on from
    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "drawn": self.drawn, "pool": list(self.pool)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises `ValueError` where more was drawn than there: the state is of an earlier step than this one."""
        if state["drawn"] < self.drawn:
            raise ValueError("a curriculum cannot go back: make a new one")
        self.rng.bit_generator.state = state["rng"]
        self.pool = deque(state["pool"], maxlen=self.plan.pool)
        while self.drawn < state["drawn"]:
            self.scene()


def two_samples(
    model: Any, processor: Any, scenes: Sequence[world.Scene], seed: int
) -> list[list[dict[str, str] | None]]:
    """For each scene two sampled answers by stage, in lower case; None where the tags are wrong."""
    backend = TransformersBackend(model, processor, check=False)
    prompts = [Prompt(scene.question.text, scene.render()) for scene in scenes]
    found: list[list[dict[str, str] | None]] = [[] for _ in scenes]

    async def sample() -> None:
        async for index, result in decode_many(prompts, backend=backend, strategy=TWO_SAMPLES, seed=seed):
            found[index] = _stages(result)

    run_sync(sample())
    return found


def _stages(result: Result) -> list[dict[str, str] | None]:
    """In the order of the samples, not of their scores."""
    candidates = [ranked.candidate for _, ranked in sorted(result.draws, key=lambda draw: draw[0])]
    texts = [{name: text.strip() for name, text in candidate.stages.items()} for candidate in candidates]
    return [stages if set(stages) == set(examples.STAGES) else None for stages in texts]


# ------------------------------------------------------------------ loss


def loss(model: Any, encoded: Sequence[Encoded], pad: int) -> torch.Tensor:
    """Of the replies, and of the verdicts inside the prompts; a mean over the tokens of each.

    Sequences of about one length go through the model together, so that little is padding: a fifth of the time.
    """
    ordered = sorted(encoded, key=lambda e: len(e.ids))
    parts = [_summed(model, ordered[at : at + TOGETHER], pad) for at in range(0, len(ordered), TOGETHER)]
    return torch.stack(
        [torch.stack(sums).sum() / max(count, 1) for sums, count in map(_added, zip(*parts, strict=True))]
    ).sum()


def _added(parts: Sequence[tuple[torch.Tensor, int]]) -> tuple[list[torch.Tensor], int]:
    return [value for value, _ in parts], sum(count for _, count in parts)


def _summed(model: Any, encoded: Sequence[Encoded], pad: int) -> list[tuple[torch.Tensor, int]]:
    """(summed cross-entropy, number of tokens) of the replies and of the verdicts."""
    width = max(len(e.ids) for e in encoded)
    ids = torch.tensor([e.ids + [pad] * (width - len(e.ids)) for e in encoded])  # [B, L], right-padded
    inputs = {"input_ids": ids, **image_inputs([e.scene for e in encoded], ids)}
    logits = model(**{name: value.to(model.device) for name, value in inputs.items()}, use_cache=False).logits
    found = []
    for kind in ("targets", "marks"):
        wanted = torch.tensor([getattr(e, kind) + [-100] * (width - len(e.ids)) for e in encoded], device=logits.device)
        total = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")
        found.append((total, int((wanted >= 0).sum())))
    return found


def image_inputs(scenes: Sequence[world.Scene | None], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mllama's picture inputs for a batch of ids [B, L]; nothing for a text-only batch.

    The mask is the processor's: tokens in front of the image token do not see the picture.
    """
    pictured = [scene for scene in scenes if scene is not None]
    if not pictured:
        return {}
    batch, sees = len(pictured), torch.arange(ids.shape[1]) >= IMAGE_AT
    return {
        "pixel_values": torch.from_numpy(examples.pixels([scene.render() for scene in pictured])),
        "aspect_ratio_ids": torch.ones(batch, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(batch, 1, 1, dtype=torch.long),
        "cross_attention_mask": sees.long().expand(batch, -1)[..., None, None],
    }
