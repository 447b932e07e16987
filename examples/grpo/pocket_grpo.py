"""GRPO on the pocket model, with rewards from the schema and from the right answers.

    python examples/grpo/pocket_grpo.py --steps 200 --out runs/grpo

Writes ``journal.jsonl`` (a line a step), ``reward.png`` and, at the end, ``model/`` (a checkpoint that every strategy
decodes). The same command resumes a killed run. Questions are of the training split; ``--evaluate 200``
measures the staged accuracy on as many test questions before and after.
"""

from __future__ import annotations

import argparse
import shutil
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset, Features, Image, List, Value
from mllama_for_trl import OneTileProcessor, accept_pixels_alone
from transformers import AutoProcessor, MllamaForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer

from structdecode.core.schemas import LLAVA_O1
from structdecode.data import load
from structdecode.pocket import checkpoint_path, world
from structdecode.strategies.staged import Staged
from structdecode.training.rewards import answer_reward, format_reward
from structdecode.training.sft.accuracy import GREEDY, staged_accuracy
from structdecode.training.sft.checkpoints import MarkComplete, last_checkpoint, step_of
from structdecode.training.sft.journal import Journal, read_journal


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


def accuracies(name: str, n: int) -> str:
    """Of staged answers to the first ``n`` test questions, one greedy and one sampled."""
    model = MllamaForConditionalGeneration.from_pretrained(name, dtype=torch.float32)
    processor, questions = AutoProcessor.from_pretrained(name), load("pocket:test", limit=n).questions
    strategies = {"greedy": GREEDY, "sampled": Staged(temperature=1.0, top_p=1.0)}
    found = {how: staged_accuracy(model, processor, questions, LLAVA_O1, each) for how, each in strategies.items()}
    return ", ".join(f"{how} {100 * it.value:.1f} ± {100 * it.error:.1f} %" for how, it in found.items())


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
    last = last_checkpoint(given.out / "checkpoints")
    trainer = GRPOTrainer(
        model,
        [format_reward("llava-o1"), answer_reward("llava-o1", kind="number")],
        config(given),
        questions(given.steps * given.prompts, given.seed),
        processing_class=OneTileProcessor.of(processor),
        callbacks=[MarkComplete(), Journal(given.out / "journal.jsonl", step_of(last))],
    )
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.save_pretrained(trained)
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(checkpoint_path() / name, trained / name)
    log = [line for line in read_journal(given.out / "journal.jsonl") if "reward" in line]
    plot(log, given.out / "reward.png")
    tenth = max(1, len(log) // 10)
    for name in ("rewards/format/mean", "rewards/answer/mean"):
        first, latest = (sum(line[name] for line in part) / tenth for part in (log[:tenth], log[-tenth:]))
        print(f"{name}: {first:.3f} in the first {tenth} steps, {latest:.3f} in the last {tenth}")
    if given.evaluate:
        for when, name in (("before", source), ("after", str(trained))):
            print(f"staged accuracy on {given.evaluate} test questions {when}: {accuracies(name, given.evaluate)}")


if __name__ == "__main__":
    main()
