"""Rewards inside the trainer that they are for."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from structdecode.backends.transformers import TransformersBackend
from structdecode.pocket import checkpoint_path, world
from structdecode.training.rewards import answer_reward, as_reward, format_reward
from structdecode.training.sft.journal import read_journal
from structdecode.verifiers.p_true import PTrue
from tests.backends.transformers import tiny

pytest.importorskip("trl")

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo"


def config(out: Path, **more: Any) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(out), max_steps=2, per_device_train_batch_size=4, num_generations=2, max_completion_length=12,
        logging_steps=1, report_to=[], bf16=False, gradient_checkpointing=False, use_cpu=True, save_strategy="no",
        disable_tqdm=True, learning_rate=1e-3, **more,
    )  # fmt: skip


def data(n: int = 8) -> Any:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as Picture

    turn = {"role": Value("string"), "content": Value("string")}
    rows = [
        {
            "prompt": [{"role": "user", "content": f"How many objects? {i}"}],
            "images": [Image.new("RGB", (28, 28), (20 * i, 0, 0))],
            "answer": "2",
        }
        for i in range(n)
    ]
    return Dataset.from_list(
        rows, features=Features({"prompt": [turn], "images": List(Picture()), "answer": Value("string")})
    )


def length(candidate: Any) -> float:
    return float(len(candidate.text))


def fails(candidate: Any) -> float:
    raise RuntimeError("the verifier's server is gone")


def test_grpo_takes_sync_and_async_rewards_and_outlives_a_broken_one(tmp_path: Path) -> None:
    from trl import GRPOTrainer

    from structdecode.verifiers.callable import FunctionVerifier

    model, processor = tiny.build("llava")
    judge = TransformersBackend(*tiny.build("llava"), name="judge")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rewards = [
        as_reward(PTrue(), judge),
        as_reward(FunctionVerifier(length), name="length", sync=True),
        as_reward(FunctionVerifier(fails), name="broken"),
        format_reward(),
        answer_reward(),
    ]
    trainer = GRPOTrainer(model, rewards, config(tmp_path), data(), processing_class=processor)
    trainer.train()
    logs = [line for line in trainer.state.log_history if "reward" in line]
    assert [line["step"] for line in logs] == [1, 2]
    for line in logs:
        assert 0 < line["rewards/p-true/mean"] < 1 and line["rewards/p-true/failed"] == 0
        assert line["rewards/p-true/prefilled_tokens"] > 0
        assert line["rewards/broken/mean"] is None and line["rewards/broken/failed"] == 1
        assert line["rewards/format/mean"] == line["rewards/answer/mean"] == 0  # a random model has no form
        assert math.isfinite(line["loss"]) and math.isfinite(line["reward"])
    after = model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


# ------------------------------------------------------------------ the worked example


def example(name: str) -> ModuleType:
    sys.path.insert(0, str(EXAMPLE))
    try:
        spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(EXAMPLE))


def pocket() -> tuple[Any, Any]:
    from transformers import AutoProcessor, MllamaForConditionalGeneration

    source = str(checkpoint_path())
    model = MllamaForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(source)


def test_pixels_alone_give_what_all_of_mllamas_inputs_give() -> None:
    adapter = example("mllama_for_trl")
    model, processor = pocket()
    scenes = [next(world.scenes("test", seed)) for seed in (0, 1, 2)]
    texts = [f"<|bos|><|user|><|image|>{s.question.text}<|assistant|>{s.response}" for s in scenes]
    pictures = [[scene.render()] for scene in scenes]
    options = {"images": pictures, "text": texts, "padding": True, "return_tensors": "pt", "add_special_tokens": False}
    whole, alone = processor(**options), adapter.OneTileProcessor.of(processor)(**options)
    assert set(alone) == {"input_ids", "attention_mask", "pixel_values"} and (alone["attention_mask"] == 0).any()
    with torch.inference_mode():
        expected = model(**whole).logits
        with pytest.raises(ValueError, match="aspect_ratio_ids"):
            model(**alone)
        adapter.accept_pixels_alone(model)
        found = model(**alone).logits
        blind = model(**{**alone, "pixel_values": torch.zeros_like(alone["pixel_values"])}).logits
    seen = alone["attention_mask"].bool()
    assert torch.equal(found[seen], expected[seen]) and not torch.allclose(blind[seen], expected[seen])


def test_dpo_on_mllama_needs_the_same_adapter_and_sees_the_picture_with_it(tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    from structdecode.training.export import preference_text, read_rows

    adapter = example("mllama_for_trl")
    model, processor = pocket()
    scene = next(world.scenes("test", 0))
    scene.render().save(tmp_path / "0.png")
    turn = [{"role": "user", "content": scene.question.text}]
    chosen, rejected = (f"<SUMMARY> {text} </SUMMARY>" for text in (scene.stages["SUMMARY"], "I will count."))
    sides = {
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
    row = preference_text({"prompt": turn, **sides, "images": [str(tmp_path / "0.png")]}, processor)
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 2)

    def trained(policy: Any, reference: Any, processing: Any) -> dict[str, float]:
        args = DPOConfig(
            output_dir=str(tmp_path / "dpo"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False,
            report_to=[], save_strategy="no", gradient_checkpointing=False, max_length=None, disable_tqdm=True,
            logging_steps=1,
        )  # fmt: skip
        pairs = read_rows([tmp_path / "pairs.jsonl"])
        trainer = DPOTrainer(policy, reference, args, train_dataset=pairs, processing_class=processing)
        trainer.train()
        return next(line for line in trainer.state.log_history if "loss" in line)

    with pytest.raises(RuntimeError, match="must match the size"):  # the mask of the prompts alone
        trained(model, pocket()[0], processor)
    both = pocket()[0], pocket()[0]
    for each in both:
        adapter.accept_pixels_alone(each)
    found = trained(*both, adapter.OneTileProcessor.of(processor))
    whole = processor(
        text=[row["prompt"] + row["chosen"]], images=[[scene.render()]], add_special_tokens=False, return_tensors="pt"
    )
    with torch.inference_mode():
        told = pocket()[0](**whole).logits[0, :-1].log_softmax(dim=-1)
    ids = whole["input_ids"][0, 1:]
    learned = len(processor.tokenizer(row["chosen"], add_special_tokens=False)["input_ids"])
    expected = float(told.gather(1, ids[:, None])[-learned:].sum())
    assert found["logps/chosen"] == pytest.approx(expected, abs=1e-3)
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are the same


def test_grpo_on_the_pocket_model_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(steps: int) -> list[dict[str, float]]:
        options = {"--steps": steps, "--out": tmp_path, "--prompts": 2, "--generations": 3, "--save-every": 1}
        words = [str(word) for pair in options.items() for word in pair]
        monkeypatch.setattr(sys, "argv", ["pocket_grpo.py", *words])
        example("pocket_grpo").main()
        return [line for line in read_journal(tmp_path / "journal.jsonl") if "reward" in line]

    first = run(1)
    both = run(2)
    assert [line["step"] for line in both] == [1, 2] and both[0]["reward"] == first[0]["reward"]
    assert all(line["rewards/format/mean"] > 0.5 for line in both)  # the pocket model knows the form
    assert (tmp_path / "reward.png").stat().st_size > 1000
    TransformersBackend.load(tmp_path / "model")
