"""GRPO on the pocket model, with rewards from the schema and from the right answers.

    python examples/grpo/pocket_grpo.py --steps 200 --out runs/grpo

Writes ``log.jsonl`` (a line a step), ``reward.png`` and, at the end, ``model/`` (a checkpoint that every strategy
decodes). The same command goes on where a killed one was. Questions are of the training split; ``--evaluate 200``
measures the staged accuracy on as many test questions before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value
from mllama_for_trl import OneTileProcessor, accept_pixels_alone
from transformers import AutoProcessor, MllamaForConditionalGeneration, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

from structdecode.backends.transformers import TransformersBackend
from structdecode.engine import decode_many
from structdecode.pocket import checkpoint_path, world
from structdecode.training.rewards import answer_reward, format_reward
from structdecode.types import Prompt


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/grpo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--prompts", type=int, default=8, help="questions a step")
    parser.add_argument("--generations", type=int, default=8, help="answers to each question")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--save-every", type=int, default=20)
    parser.add_argument("--evaluate", type=int, default=0, help="test questions, before and after")
    return parser.parse_args()


def questions(n: int, seed: int) -> Dataset:
    """The columns that GRPOTrainer and the rewards read."""
    rows = [
        {
            "prompt": [{"role": "user", "content": scene.question.text}],
            "images": [scene.render()],
            "answer": scene.answer,
        }
        for scene in islice(world.scenes("train", seed), n)
    ]
    turn = {"role": Value("string"), "content": Value("string")}
    return Dataset.from_list(
        rows, features=Features({"prompt": [turn], "images": List(Image()), "answer": Value("string")})
    )


class JsonlLog(TrainerCallback):
    """A line a step; what a killed run had written after its last checkpoint is cut off, since it is done again."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        kept = [line for line in read_log(path) if line["step"] <= done]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "reward" in logs:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def read_log(path: Path) -> list[dict[str, float]]:
    """A torn last line is what a kill leaves: it is passed over."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def plot(log: list[dict[str, float]], path: Path, width: int = 20) -> None:
    """Rewards over steps, and their running mean over ``width`` steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    steps = [line["step"] for line in log]
    for colour, name in enumerate(["rewards/answer/mean", "rewards/format/mean"]):
        values = [line[name] for line in log]
        means = [
            sum(values[max(0, i - width + 1) : i + 1]) / len(values[max(0, i - width + 1) : i + 1])
            for i in range(len(values))
        ]
        axes.plot(steps, values, color=f"C{colour}", alpha=0.25, linewidth=0.8)
        axes.plot(steps, means, color=f"C{colour}", label=f"{name.split('/')[1]} (mean of {width} steps)")
    axes.set(xlabel="step", ylabel="reward", ylim=(0, 1.02), title="GRPO on the pocket model")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def accuracy(model: str, n: int) -> float:
    """Of greedy staged answers to the first ``n`` test questions."""
    scenes = list(islice(world.scenes("test"), n))
    prompts = [Prompt(scene.question.text, scene.render()) for scene in scenes]
    backend = TransformersBackend.load(model)

    async def right() -> int:
        found = decode_many(prompts, backend=backend, strategy="staged")
        return sum([result.answer.strip() == scenes[i].answer async for i, result in found])

    return asyncio.run(right()) / n


def config(given: argparse.Namespace) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(given.out / "checkpoints"), seed=given.seed, max_steps=given.steps, learning_rate=given.lr,
        lr_scheduler_type="constant_with_warmup", warmup_steps=min(10, given.steps),
        per_device_train_batch_size=given.prompts * given.generations, num_generations=given.generations,
        max_completion_length=160, temperature=given.temperature, logging_steps=1, save_steps=given.save_every,
        save_total_limit=2, report_to=[], bf16=False, gradient_checkpointing=False, use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )  # fmt: skip


def main() -> None:
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    source, trained = str(checkpoint_path()), given.out / "model"
    model = MllamaForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    accept_pixels_alone(model)
    processor = AutoProcessor.from_pretrained(source)
    last = get_last_checkpoint(str(given.out / "checkpoints")) if (given.out / "checkpoints").is_dir() else None
    done = int(last.rsplit("-", 1)[1]) if last else 0
    trainer = GRPOTrainer(
        model,
        [format_reward("llava-o1"), answer_reward("llava-o1", kind="number")],
        config(given),
        questions(given.steps * given.prompts, given.seed),
        processing_class=OneTileProcessor.of(processor),
        callbacks=[JsonlLog(given.out / "log.jsonl", done)],
    )
    trainer.train(resume_from_checkpoint=last)
    model.save_pretrained(trained)
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(checkpoint_path() / name, trained / name)
    log = read_log(given.out / "log.jsonl")
    plot(log, given.out / "reward.png")
    tenth = max(1, len(log) // 10)
    for name in ("rewards/format/mean", "rewards/answer/mean"):
        first, latest = (sum(line[name] for line in part) / tenth for part in (log[:tenth], log[-tenth:]))
        print(f"{name}: {first:.3f} in the first {tenth} steps, {latest:.3f} in the last {tenth}")
    if given.evaluate:
        before, after = accuracy(source, given.evaluate), accuracy(str(trained), given.evaluate)
        print(f"staged accuracy on {given.evaluate} test questions: {before:.3f} before, {after:.3f} after")


if __name__ == "__main__":
    main()
