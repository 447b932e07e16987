"""Where stages end, token by token; values that depend on nothing else than what stands before them."""

from __future__ import annotations

import json
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from structdecode.backends.transformers.collate import IGNORED
from structdecode.core.errors import ConfigError, ModelError
from structdecode.core.schemas import LLAVA_O1
from structdecode.pocket import checkpoint_path
from structdecode.training.reward_model.model import from_base, save
from structdecode.verifiers.reward_model import RewardModel as RewardModelVerifier
from structdecode.verifiers.reward_model.collate import NOWHERE, Mark, StepCollator, StepExample, chat
from structdecode.verifiers.reward_model.config import FILE, HEAD, RewardConfig
from structdecode.verifiers.reward_model.network import RewardModel, load, right_so_far
from tests.backends.transformers import tiny
from tests.training import processors
from tests.training.test_collate import IMAGES

CONFIG = RewardConfig.of(LLAVA_O1)
TEXTS = ["<SUMMARY> One </SUMMARY>", "<CAPTION> a red square. 2. </CAPTION>", "<CONCLUSION> 2 </CONCLUSION>"]


@lru_cache
def built(architecture: str) -> tuple[RewardModel, Any]:
    model, processor = processors.build(architecture)
    reward = RewardModel(model.base_model)
    torch.manual_seed(1)
    torch.nn.init.normal_(reward.head.value.weight)
    return reward.eval(), processor


def example(*texts: str, question: str = "How many?", size: tuple[int, int] = (40, 60), row: int = 0) -> StepExample:
    ends = [len(" ".join(texts[: n + 1])) for n in range(len(texts))]
    marks = tuple(Mark(end, float(n % 2), n) for n, end in enumerate(ends))
    images = (Image.new("RGB", size, (90, 9, 9)),)
    return StepExample("e", chat(question, images, " ".join(texts)), images, "rows.jsonl:7", marks, row)


def shown(tokenizer: Any, batch: dict[str, torch.Tensor], row: int) -> str:
    """A row as one line, each token that ends a step followed by its kind and label."""
    words = []
    for at in batch["attention_mask"][row].nonzero().flatten():
        words.append(tokenizer.convert_ids_to_tokens(int(batch["input_ids"][row, at])).replace("Ġ", "_"))
        kind, label = int(batch["kinds"][row, at]), float(batch["labels"][row, at])
        assert (kind == NOWHERE) == (label == IGNORED)
        words += [f"[{kind}:{label:.0f}]"] if kind != NOWHERE else []
    return " ".join(words)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_stages_end_at_the_last_token_of_their_tags(architecture: str, side: Any) -> None:
    processor = built(architecture)[1]
    examples = [example(*TEXTS, row=4), example(TEXTS[0], question="Is </SUMMARY> red?", row=2)]
    batch = StepCollator(processor, padding_side=side)(examples)
    start = f"<|bos|> <|user|> {IMAGES[architecture]} "
    assert shown(processor.tokenizer, batch, 0) == start + (
        "Ho w _ man y ? <|assistant|> < SUMMARY > _ One _</ SUMMARY > [0:0] _ < CAPTION > _a _ re d _s q u are . _ 2 . "
        "_</ CAPTION > [1:1] _ < CONCLUSION > _ 2 _</ CONCLUSION > [2:0] <|eot|>"
    )
    assert shown(processor.tokenizer, batch, 1) == start + (
        "I s _</ SUMMARY > _ re d ? <|assistant|> < SUMMARY > _ One _</ SUMMARY > [0:0] <|eot|>"
    )
    assert batch["rows"].tolist() == [4, 2]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_a_value_depends_neither_on_the_batch_nor_on_what_follows(architecture: str, side: Any) -> None:
    model, processor = built(architecture)
    collator = StepCollator(processor, padding_side=side)
    examples = [
        example(*TEXTS),
        example(*TEXTS[:2]),
        example(TEXTS[0]),
        example(*TEXTS[:2], question="How many red ones?"),
    ]
    together, alone = values(model, collator(examples)), [values(model, collator([one]))[0] for one in examples]
    torch.testing.assert_close(torch.cat(together), torch.cat(alone), atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(together[0][:2], together[1], atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(together[0][:1], together[2], atol=2e-4, rtol=2e-4)
    assert (together[1] - together[3]).abs().min() > 1e-2  # another question


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_the_picture_is_seen(architecture: str) -> None:
    model, processor = built(architecture)
    one = example(*TEXTS)
    other = StepExample(one.id, one.messages, (Image.new("RGB", (40, 60), (9, 200, 90)),), one.source, one.marks)
    found = [values(model, StepCollator(processor)([e]))[0] for e in (one, other)]
    assert (found[0] - found[1]).abs().min() > 1e-3


@torch.no_grad()
def values(model: RewardModel, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    logits = model(**batch)["logits"]
    return [logits[row][batch["kinds"][row] != NOWHERE] for row in range(len(logits))]


def test_the_loss_is_the_mean_over_labels_alone() -> None:
    model, processor = built("llava")
    batch = StepCollator(processor)([example(*TEXTS), example(TEXTS[0])])
    with torch.no_grad():
        found = model(**batch)
    known = batch["labels"] != IGNORED
    logits, labels = found["logits"][known].double(), batch["labels"][known].double()
    by_hand = -(labels * torch.sigmoid(logits).log() + (1 - labels) * torch.sigmoid(-logits).log()).mean()
    assert found["loss"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert known.sum() == 4


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model, processor = from_base("pocket")
    torch.nn.init.normal_(model.head.value.weight)
    save(model, processor, RewardConfig.of(LLAVA_O1, held_out={"CAPTION": {"auc": (0.5, 0.1)}}), tmp_path / "m")
    again, its_processor, config = load(tmp_path / "m", device="cpu")
    batches = [StepCollator(p)([example(*TEXTS), example(*TEXTS[:2])]) for p in (processor, its_processor)]
    with torch.no_grad():
        assert torch.equal(model.eval()(**batches[0])["logits"], again(**batches[1])["logits"])
    assert config.stages == RewardConfig.of(LLAVA_O1).stages and config.instruction == "{question}"
    assert config.held_out == {"CAPTION": {"auc": [0.5, 0.1]}}
    assert not list(tmp_path.glob(".*")) and "lm_head" not in str(dict(again.named_parameters()).keys())


def test_what_is_no_reward_model_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory: make one with"):
        load(tmp_path / "none")
    with pytest.raises(ConfigError, match=f"no {FILE} in it"):
        load(checkpoint_path())
    text = RewardConfig.of(LLAVA_O1).text()
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelError, match="reward model .*" + HEAD):
        load(tmp_path)
    for content, message in [
        ("{", "not a reward model's description"), ("[]", "damaged: it is a list of 0"),
        (json.dumps({**json.loads(text), "format": "x/9"}), "format 'x/9', not"),
        (json.dumps({**json.loads(text), "colour": 1}), "not a reward model's description"),
    ]:  # fmt: skip
        (tmp_path / FILE).write_text(content)
        with pytest.raises(ModelError, match=message) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


def test_what_is_right_so_far_ends_with_the_last_good_step_before_a_bad_one() -> None:
    no = float(IGNORED)
    labels = torch.tensor([[no, 1, no, 1, no, 0, no], [no, 0, no, 1, no, 1, no], [no, 1, no, 1, no, 1, no], [no] * 7])
    wanted = ["1111000", "0000000", "1111110", "0000000"]
    assert ["".join(map(str, row)) for row in right_so_far(labels).long().tolist()] == wanted


def test_learning_to_write_what_is_right_counts_in_training_only() -> None:
    model, processor = from_base("pocket", likelihood=True)
    both, _ = from_base("pocket", likelihood=True, language_modelling=0.5)
    batch = StepCollator(processor)(
        [example("<SUMMARY> count the red squares. </SUMMARY>", "<CAPTION> a1 red circle. </CAPTION>")]
    )
    batch["labels"][batch["kinds"] == 0], batch["labels"][batch["kinds"] == 1] = 1.0, 0.0
    plain, more = (each.train()(**batch)["loss"].item() for each in (model, both))
    assert both.eval()(**batch)["loss"].item() == pytest.approx(model.eval()(**batch)["loss"].item())
    asked = batch["answers"][0].nonzero().flatten()
    end = int((batch["kinds"][0] == 0).nonzero())
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "kinds", "rows", "answers")}
    with torch.no_grad():
        log_probs = model.backbone(**inputs).logits[0].log_softmax(-1)
    own = [float(log_probs[at - 1, batch["input_ids"][0, at]]) for at in asked.tolist() if at <= end]
    assert more - plain == pytest.approx(-0.5 * sum(own) / len(own), rel=1e-3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "m"
    save(*from_base("pocket"), RewardConfig.of(LLAVA_O1), place)
    return place


def test_weights_that_are_not_there_are_not_made_up(whole: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(whole, tmp_path / "m"))
    weights = load_file(place / "model.safetensors")
    save_file(dict(list(weights.items())[::2]), place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="weights of the model are not in the checkpoint"):
        load(place)


@pytest.mark.parametrize("name", ["model.safetensors", HEAD, "tokenizer.json"])
def test_a_pipe_in_its_directory_is_refused(name: str, whole: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(whole, tmp_path / "m"))
    (place / name).unlink()
    os.mkfifo(place / name)
    with pytest.raises(ConfigError, match=f"{name}: not a regular file"):
        RewardModelVerifier(str(place))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stages", []), ("stages", [["A", "<A>", "</A>"]] * 2), ("stages", [["A", "<A>"]]), ("stages", [[1, 2, 3]]),
        ("instruction", 5), ("likelihood", "yes"), ("trained", []), ("schema", None),
    ],
)  # fmt: skip
def test_a_damaged_description_is_named(field: str, value: Any, tmp_path: Path) -> None:
    described = json.loads(RewardConfig.of(LLAVA_O1).text())
    (tmp_path / FILE).write_text(json.dumps({**described, field: value}))
    with pytest.raises(ModelError, match=f"{FILE}: damaged: "):
        RewardConfig.load(tmp_path)
