"""Trains the pocket model from nothing: ``python -m structdecode.pocket.train --out DIR``.

First it learns to answer, then to judge as well. Half-way, a pool of the model's own sampled answers, marked
by the world's truth, takes the place of most corrupted ones, so that the verifier learns the errors that the
generator makes (Cobbe et al., arXiv 2110.14168). A checkpoint a few hundred steps; a restart goes on from it.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import MllamaForConditionalGeneration, PreTrainedTokenizerFast

from structdecode.paths import whole
from structdecode.pocket import lessons, world
from structdecode.pocket.lessons import Attempt, Encoded, Lesson
from structdecode.pocket.model import build_model, build_processor, build_tokenizer

IMAGE_AT = 2
"""Where the image token is in every prompt: behind <|bos|> and <|user|>."""

WEIGHTS = {"answers": 1.0, "verdicts": 0.4, "comparisons": 0.3, "pre_checks": 0.1}
"""Of the losses of a step's groups."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out.

    A step takes ``batch`` answers until ``verify_from`` (a share of the steps), then ``answers``, ``verdicts``, ...
    """

    seed: int = 1
    steps: int = 2000
    lr: float = 1e-3
    warmup_steps: int = 60
    decay_from: float = 0.5
    batch: int = 80
    answers: int = 36
    verdicts: int = 32
    comparisons: int = 12
    pre_checks: int = 4
    verify_from: float = 0.35
    own_samples_from: float = 0.5
    own_samples_every: int = 8
    own_samples_batch: int = 32
    pool: int = 3000
    checkpoint_every: int = 100


class Trainer:
    """The loop's state: model, optimizer, generators, the pool of the model's own answers."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        torch.manual_seed(recipe.seed)
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer()
        self.model: MllamaForConditionalGeneration = build_model(self.tokenizer)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)
        self.rng = np.random.default_rng(recipe.seed)
        self.scenes = world.scenes("train", recipe.seed)
        self.pool: deque[tuple[Attempt, Attempt]] = deque(maxlen=recipe.pool)
        self.step = 0
        self.drawn = 0

    # ------------------------------------------------------------------ data
    def scene(self) -> world.Scene:
        self.drawn += 1
        return next(self.scenes)

    def attempts(self) -> tuple[Attempt, Attempt]:
        """Two attempts at one question, at least one of them wrong where that can be had."""
        if self.pool and self.rng.random() < 0.7:
            pair = self.pool[int(self.rng.integers(len(self.pool)))]
            return pair if self.rng.random() < 0.5 else (pair[1], pair[0])
        scene = self.scene()
        wrong = lessons.corrupted_attempt(scene, self.rng)
        draw = self.rng.random()
        other = lessons.true_attempt(scene) if draw < 0.8 else lessons.corrupted_attempt(scene, self.rng)
        return (wrong, other) if self.rng.random() < 0.5 else (other, wrong)

    def groups(self) -> list[list[Encoded]]:
        """One step's sequences, grouped by length and by whether there is a picture."""
        recipe, rng = self.recipe, self.rng
        if self.step < recipe.verify_from * recipe.steps:
            return [[lessons.encode(lessons.answering(self.scene(), rng), self.tokenizer) for _ in range(recipe.batch)]]
        answers = [lessons.answering(self.scene(), rng) for _ in range(recipe.answers)]
        verdicts = [lessons.yes_no(self.attempts()[0], rng) for _ in range(recipe.verdicts)]
        checks = [lessons.pre_check(self.attempts()[0], rng) for _ in range(recipe.pre_checks)]
        comparisons: list[Lesson] = []
        while len(comparisons) < recipe.comparisons:
            lesson = lessons.comparison(*self.attempts(), rng)
            if lesson is not None:
                comparisons.append(lesson)
        return [
            [lessons.encode(x, self.tokenizer) for x in group] for group in (answers, verdicts, comparisons, checks)
        ]

    # ---------------------------------------------------------------- training
    def lr(self) -> float:
        """Warm-up, constant, then linear decay from ``decay_from``."""
        recipe, step = self.recipe, self.step
        left = (recipe.steps - step) / (recipe.steps * (1 - recipe.decay_from))
        return recipe.lr * min(1.0, (step + 1) / recipe.warmup_steps, max(left, 0.02))

    def train_step(self) -> dict[str, float]:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr()
        losses = {}
        for (name, weight), encoded in zip(WEIGHTS.items(), self.groups(), strict=False):
            loss = self.loss(encoded)
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            losses[name] = loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return losses

    def loss(self, encoded: Sequence[Encoded]) -> torch.Tensor:
        width = max(len(e.ids) for e in encoded)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([e.ids + [pad] * (width - len(e.ids)) for e in encoded])  # [B, L], right-padded
        images = image_inputs([e.scene for e in encoded], ids)
        logits = self.model(input_ids=ids, use_cache=False, **images).logits
        loss: torch.Tensor = logits.new_zeros(())
        for kind in ("targets", "marks"):
            wanted = torch.tensor([getattr(e, kind) + [-100] * (width - len(e.ids)) for e in encoded])
            if (wanted >= 0).any():
                loss = loss + F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
        return loss

    # ---------------------------------------------------------- its own answers
    @torch.no_grad()
    def sample_own(self) -> None:
        """Two sampled answers to each of a batch of new training questions go into the pool if one is wrong."""
        scenes = [self.scene() for _ in range(self.recipe.own_samples_batch)]
        twice = [scene for scene in scenes for _ in range(2)]
        replies = sample_replies(self.model, self.tokenizer, twice, temperature=1.0)
        for scene, first, second in zip(scenes, replies[::2], replies[1::2], strict=True):
            pair = [Attempt(scene, stages) for stages in (first, second) if stages is not None]
            if len(pair) == 1 or (len(pair) == 2 and pair[0].right and pair[1].right):
                pair = [pair[0], lessons.true_attempt(scene)]
            if len(pair) == 2 and pair[0].stages == pair[1].stages and not pair[0].right:
                pair[1] = lessons.true_attempt(scene)
            if len(pair) == 2:
                self.pool.append((pair[0], pair[1]))

    # -------------------------------------------------------------- run and save
    def run(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.resume()
        start, log = time.time(), (self.out / "log.jsonl").open("a")
        mean: dict[str, float] = {}
        while self.step < self.recipe.steps:
            own = self.step >= self.recipe.own_samples_from * self.recipe.steps
            if own and self.step % self.recipe.own_samples_every == 0:
                self.sample_own()
            for name, loss in self.train_step().items():
                mean[name] = 0.95 * mean.get(name, loss) + 0.05 * loss
            if self.step % 50 == 0:
                row = {"step": self.step, "seconds": round(time.time() - start, 1), "pool": len(self.pool)}
                print(json.dumps({**row, **{k: round(v, 4) for k, v in mean.items()}}), file=log, flush=True)
                print(row, {k: round(v, 4) for k, v in mean.items()}, flush=True)
            if self.step % self.recipe.checkpoint_every == 0:
                self.checkpoint()
        self.save(self.out / "model")

    def checkpoint(self) -> None:
        state = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
            "rng": self.rng.bit_generator.state, "torch_rng": torch.get_rng_state(), "drawn": self.drawn,
            "pool": list(self.pool), "recipe": asdict(self.recipe),
        }  # fmt: skip
        with whole(self.out / "checkpoint.pt") as partial:
            torch.save(state, partial)

    def resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, weights_only=False)  # our own file, with attempts in it
        if state["recipe"] != asdict(self.recipe):
            raise SystemExit(f"{path} was made with another recipe: remove it, or choose another --out")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.pool = state["step"], deque(state["pool"], maxlen=self.recipe.pool)
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"])
        while self.drawn < state["drawn"]:
            self.scene()
        print(f"resumed at step {self.step}", flush=True)

    def save(self, path: Path) -> None:
        """Model in float16 safetensors, tokenizer and processor, ready for `from_pretrained`."""
        self.model.to(torch.float16).save_pretrained(path)
        build_processor(self.tokenizer).save_pretrained(path)
        (path / "recipe.json").write_text(json.dumps(asdict(self.recipe), indent=1) + "\n")


def image_inputs(scenes: Sequence[world.Scene | None], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mllama's picture inputs for a batch of ids [B, L]; nothing for a text-only batch.

    The mask is the processor's: tokens in front of the image token do not see the picture.
    """
    pictured = [scene for scene in scenes if scene is not None]
    if not pictured:
        return {}
    batch, sees = len(pictured), torch.arange(ids.shape[1]) >= IMAGE_AT
    return {
        "pixel_values": torch.from_numpy(lessons.pixels([scene.render() for scene in pictured])),
        "aspect_ratio_ids": torch.ones(batch, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(batch, 1, 1, dtype=torch.long),
        "cross_attention_mask": sees.long().expand(batch, -1)[..., None, None],
    }


@torch.no_grad()
def sample_replies(
    model: MllamaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    scenes: Sequence[world.Scene],
    temperature: float,
    max_new_tokens: int = 120,
) -> list[dict[str, str] | None]:
    """One staged answer a scene; None where the tags are wrong.

    Prompts of one length go together, so that nothing is padded: in training nothing is, on the left.
    """
    prompts = [lessons.encode(Lesson(scene.question.text, "", scene), tokenizer).ids for scene in scenes]
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    replies: list[dict[str, str] | None] = [None] * len(scenes)
    model.eval()
    for indices in by_length.values():
        ids = torch.tensor([prompts[i] for i in indices])
        output = model.generate(
            input_ids=ids,
            do_sample=temperature > 0,
            max_new_tokens=max_new_tokens,
            **({"temperature": temperature, "top_k": 0} if temperature > 0 else {}),
            **image_inputs([scenes[i] for i in indices], ids),
        )
        for index, row in zip(indices, output, strict=True):
            text = tokenizer.decode(row[len(prompts[index]) :], skip_special_tokens=True)
            replies[index] = split_stages(text)
    return replies


def split_stages(text: str) -> dict[str, str] | None:
    stages = {}
    for name in lessons.STAGES:
        _, begin, rest = text.partition(f"<{name}>")
        body, end, text = rest.partition(f"</{name}>")
        if not begin or not end:
            return None
        stages[name] = body.strip()
    return stages


@torch.no_grad()
def accuracy(
    model: Any, tokenizer: Any, n: int = 300, temperature: float = 0.0, split: world.Split = "validation"
) -> tuple[float, float]:
    """Share of right conclusions and of right captions over `n` scenes of a split."""
    source = world.scenes(split, 7)
    batch = [next(source) for _ in range(n)]
    replies = []
    for at in range(0, n, 100):
        replies += sample_replies(model, tokenizer, batch[at : at + 100], temperature)
    pairs = list(zip(batch, replies, strict=True))
    right = sum(r is not None and r["CONCLUSION"] == s.answer for s, r in pairs)
    captions = sum(r is not None and r["CAPTION"] == s.stages["CAPTION"] for s, r in pairs)
    return right / n, captions / n


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Train the pocket model from nothing.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trainer = Trainer(Recipe(seed=arguments.seed, steps=arguments.steps), arguments.out)
    trainer.run()


if __name__ == "__main__":
    main()
