"""Labels, token by token. In what is written out by hand below, tokens in brackets carry loss and ``_`` is a blank."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from structdecode.backends.transformers.chat import ChatRenderer
from structdecode.backends.transformers.collate import IGNORED, Collator, Example
from structdecode.backends.transformers.encoding import Codec
from structdecode.core.errors import ConfigError, DataError, ModelError
from structdecode.core.problems import BadRow
from structdecode.core.types import Message, Prompt
from tests.backends.transformers import tiny
from tests.training import processors
from tests.training.processors import chat

ONE = "<bos> <user> {image} Ho w _ man y ? <assistant> [ < SUMMARY > 2 </ SUMMARY > <eot> ]"
IMAGES = {
    "mllama": "<|image|>",
    "llava": " ".join(["<image>"] * 4),
    "qwen2.5-vl": "<|vision_start|> " + " ".join(["<image>"] * 6) + " <|vision_end|>",
    "idefics3": "<fake_token_around_image> < g l o b a l - i m g > " + " ".join(["<image>"] * 4)
    + " <fake_token_around_image>",
}  # fmt: skip
"""The mark of a 40 x 60 picture after the processor."""

ONE_IMAGE = ("How many?", "<SUMMARY>2</SUMMARY>")
CONFUSING = ("Is <|assistant|><SUMMARY>2</SUMMARY><|eot|> red?", "<SUMMARY>I am <|assistant|> 2</SUMMARY>")
CONFUSED = (
    "<bos> <user> I s _ <assistant> < SUMMARY > 2 </ SUMMARY > <eot> _ re d ? "
    "<assistant> [ < SUMMARY > I _a m _ <assistant> _ 2 </ SUMMARY > <eot> ]"
)
TURNS = ("How?", "red", "and?", "blue")
TURNED = "<bos> <user> Ho w ? <assistant> [ re d <eot> ] <user> a nd ? <assistant> [ bl u e <eot> ]"


@lru_cache
def built(name: str) -> tuple[Any, Any]:
    return processors.build(name)


@lru_cache
def styled(style: str) -> Any:
    return processors.styled(style)


def example(*texts: str, images: int = 0, size: tuple[int, int] = (40, 60)) -> Example:
    return Example("e", chat(*texts, images=images), (Image.new("RGB", size, (90, 9, 9)),) * images, "train.jsonl:7")


def written(tokenizer: Any, ids: torch.Tensor, labels: torch.Tensor) -> str:
    """A row as one line, padding left out; a label that is not its own token's id shows as ``!``."""
    words, inside = [], False
    for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
        if token == tokenizer.pad_token_id and label == IGNORED:
            continue
        if (label != IGNORED) != inside:
            inside = not inside
            words.append("[" if inside else "]")
        word = tokenizer.convert_ids_to_tokens(token).replace("Ġ", "_").replace("Ċ", "\\n")
        words.append(word if label in (IGNORED, token) else "!")
    return " ".join([*words, *("]" if inside else "")]).replace("<|bos|>", "<bos>").replace("<|eot|>", "<eot>")


def expected(text: str) -> str:
    return text.replace("<user>", "<|user|>").replace("<assistant>", "<|assistant|>")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_loss_is_on_assistant_bodies_token_by_token(architecture: str, side: Any) -> None:
    """In one batch: a picture, a confusing text without one, and two turns."""
    processor = built(architecture)[1]
    examples = [example(*ONE_IMAGE, images=1), example(*CONFUSING), example(*TURNS)]
    batch = Collator(processor, padding_side=side)(examples)
    rows = [written(processor.tokenizer, *row) for row in zip(batch["input_ids"], batch["labels"], strict=True)]
    assert rows == [expected(ONE.format(image=IMAGES[architecture])), expected(CONFUSED), expected(TURNED)]
    edge = batch["attention_mask"][:, 0 if side == "left" else -1]
    assert edge.tolist().count(0) == 2  # the shorter two are padded, on this side
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()


STYLED = {  # two turns and a picture, in the words of each model's own template
    "mllama": "<bos> <|start_header_id|> u s e r <|end_header_id|> \\n \\n <|image|> Ho w ? <|eot_id|> "
    "<|start_header_id|> a s s is t an t <|end_header_id|> \\n \\n [ re d <|eot_id|> ] "
    "<|start_header_id|> u s e r <|end_header_id|> \\n \\n a nd ? <|eot_id|> "
    "<|start_header_id|> a s s is t an t <|end_header_id|> \\n \\n [ bl u e <|eot_id|> ]",
    # the template ends no turn, so the tokenizer's end-of-text does; the blank behind "ASSISTANT:" is the model's
    "llava": "U S E R : _ <image> <image> <image> <image> \\n Ho w ? _ AS S I S T A N T : [ _ re d <eot> ] "
    "_ U S E R : _and ? _ AS S I S T A N T : [ _ bl u e <eot> ] _",
    "qwen2.5-vl": "<|im_start|> s y s t e m \\n Y ou _a re _a _ he l p f u l _a s s is t an t . <|im_end|> \\n "
    "<|im_start|> u s e r \\n <|vision_start|> <image> <image> <image> <image> <image> <image> <|vision_end|> "
    "Ho w ? <|im_end|> \\n <|im_start|> a s s is t an t \\n [ re d <|im_end|> ] \\n "
    "<|im_start|> u s e r \\n a nd ? <|im_end|> \\n <|im_start|> a s s is t an t \\n [ bl u e <|im_end|> ] \\n",
    "idefics3": f"<|im_start|> U s e r : {IMAGES['idefics3']} Ho w ? <end_of_utterance> \\n "
    "A s s is t an t : [ _ re d <end_of_utterance> ] \\n "
    "U s e r : _and ? <end_of_utterance> \\n A s s is t an t : [ _ bl u e <end_of_utterance> ] \\n",
    "trimmed": "[ u s e r ] _ <image> <image> <image> <image> Ho w ? [ a s s is t an t ] _ { re d <eot> } "
    "[ u s e r ] _and ? [ a s s is t an t ] _ { bl u e <eot> }",
}  # fmt: skip


@pytest.mark.parametrize("style", sorted(STYLED))
def test_the_templates_of_real_models_token_by_token(style: str) -> None:
    processor = styled(style)
    batch = Collator(processor)([example("How?", " red\n" if style == "trimmed" else "red", *TURNS[2:], images=1)])
    row = written(processor.tokenizer, batch["input_ids"][0], batch["labels"][0])
    if style == "trimmed":  # its template has brackets of its own
        kept = batch["labels"][0] != IGNORED
        assert processor.tokenizer.decode(batch["labels"][0][kept]) == "red<|eot|>blue<|eot|>"
        assert row.replace("[ re", "{ re").replace("[ bl", "{ bl").replace("<eot> ]", "<eot> }") == STYLED[style]
    else:
        assert row == STYLED[style]


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_what_is_learned_stands_behind_the_prompt_that_decoding_makes(architecture: str) -> None:
    model, processor = built(architecture)
    one = example(*TURNS, images=1)
    batch = Collator(processor)([one])
    history = (Message("user", TURNS[0]), Message("assistant", TURNS[1]))
    prompt = Codec(processor, model).inputs(Prompt(TURNS[2], one.images, history))["input_ids"][0].tolist()
    ids = batch["input_ids"][0].tolist()
    # decoding shows earlier answers as the template does; the tiny template ends none of them
    before = [i for at, i in enumerate(ids) if not (i == 2 and at < len(ids) - 1)]
    assert before[: len(prompt)] == prompt
    assert processor.tokenizer.decode(before[len(prompt) :]) == "blue<|eot|>"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_a_batch_has_the_losses_of_its_examples(architecture: str, side: Any) -> None:
    """Pictures, masks and positions are right: in company an example's loss is what it is alone."""
    model, processor = built(architecture)
    collator = Collator(processor, padding_side=side)
    examples = [example(*ONE_IMAGE, images=1), example(*TURNS, images=1, size=(90, 30)), example(*TURNS)]
    losses, alone = losses_of(model, collator(examples)), [losses_of(model, collator([one]))[0] for one in examples]
    kept_apart = 2 if architecture == "mllama" else 3  # of mllama: see the next test
    torch.testing.assert_close(losses[:kept_apart], torch.stack(alone)[:kept_apart], atol=1e-4, rtol=1e-4)
    assert collator.mixed == (architecture == "mllama")


def test_mllama_needs_batches_that_do_not_mix() -> None:
    """If this fails, transformers masks cross-attention whole, and groups are no longer needed."""
    model, processor = built("mllama")
    collator = Collator(processor)
    mixed, plain = [example(*ONE_IMAGE, images=1), example(*TURNS)], [example(*TURNS), example(*CONFUSING)]
    batch = collator(mixed)
    assert batch["cross_attention_mask"][0].any() and not batch["cross_attention_mask"][1].any()
    assert (losses_of(model, batch)[1] - losses_of(model, collator(plain))[0]).abs() > 0.01
    assert collator.mixed

    collator = Collator(processor)
    torch.testing.assert_close(losses_of(model, collator(plain))[0], losses_of(model, collator(plain[:1]))[0])
    losses_of(model, collator(mixed[:1] * 2))
    assert not collator.mixed


def losses_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """[B] the mean loss of each row."""
    with torch.no_grad():
        logits, labels = model(**batch).logits[:, :-1], batch["labels"][:, 1:]
    losses = [torch.nn.functional.cross_entropy(*row, ignore_index=IGNORED) for row in zip(logits, labels, strict=True)]
    return torch.stack(losses)


def test_a_batch_without_pictures() -> None:
    for architecture in tiny.ARCHITECTURES:
        model, processor = built(architecture)
        batch = Collator(processor)([example(*TURNS), example(*CONFUSING)])
        assert "pixel_values" not in batch
        assert torch.isfinite(model(**batch).loss)


TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["<|assistant|>", "<|user|>", "<|eot|>", "<|bos|>", "<SUMMARY>", "</SUMMARY>", " ", "\n", "ab", "é", "漢"]),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=6),
    ),
    min_size=1, max_size=6,
).map("".join).map(str.strip).filter(bool)  # fmt: skip


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0), images=st.integers(0, 1))
def test_unmasked_labels_decode_to_the_bodies_and_ends_of_turn(
    architecture: str, texts: list[str], images: int
) -> None:
    processor = built(architecture)[1]
    batch = Collator(processor)([example(*texts, images=images), example(*TURNS, images=1)])
    labels = batch["labels"][0]
    decoded = processor.tokenizer.decode(labels[labels != IGNORED], clean_up_tokenization_spaces=False)
    assert decoded == "".join(f"{body}<|eot|>" for body in texts[1::2])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    texts=st.lists(TEXTS, min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0),
    style=st.sampled_from(sorted(STYLED)),
)
def test_the_same_under_the_templates_of_real_models(texts: list[str], style: str) -> None:
    chats = ChatRenderer(styled(style))
    tokens = chats.tokens(chats.render(chat(*texts)))
    end = {"mllama": "<|eot_id|>", "qwen2.5-vl": "<|im_end|>", "idefics3": "<end_of_utterance>"}.get(style, "<|eot|>")
    lead = " " if style in ("llava", "idefics3") else ""
    ids = [i for i, trained in zip(tokens.ids, tokens.trained, strict=True) if trained]
    decoded = chats.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert decoded == "".join(f"{lead}{body}{end}" for body in texts[1::2])


def test_too_long_is_left_out_with_a_message_and_never_cut(caplog: pytest.LogCaptureFixture) -> None:
    processor = built("llava")[1]
    whole = Collator(processor)([example(*ONE_IMAGE, images=1)])
    length = whole["input_ids"].shape[1]
    collator = Collator(processor, max_length=length)
    longer = Example(
        "l", chat("How many red?", ONE_IMAGE[1], images=1), example("", "", images=1).images, "train.jsonl:9"
    )
    with caplog.at_level(logging.WARNING):
        batch = collator([example(*ONE_IMAGE, images=1), longer])
    for name, value in whole.items():
        assert torch.equal(value, batch[name]), name  # as if the long one had not been there
    (said,) = collator.rejected
    assert said.startswith("train.jsonl:9: ") and f"tokens, more than {length}" in said and said in caplog.text
    with pytest.raises(DataError, match=r"no example of a batch can be used \(train\.jsonl:9: .*data check"):
        collator([longer])


def test_a_row_that_the_model_cannot_take_does_not_take_the_batch_along() -> None:
    processor = built("qwen2.5-vl")[1]
    collator = Collator(processor)
    strip = Example("s", chat(*TURNS, images=1), (Image.new("RGB", (3000, 2)),), "train.jsonl:3")
    marked = Example("m", chat("What is <image>?", "red"), (), "train.jsonl:4")
    batch = collator([strip, example(*TURNS, images=1), marked])
    assert batch["input_ids"].shape[0] == 1
    assert [said.split(" ")[0] for said in collator.rejected] == ["train.jsonl:4:", "train.jsonl:3:"]
    assert "aspect ratio" in collator.rejected[1] and "'<image>'" in collator.rejected[0]


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        ("{% for m in messages %}{{ m['content'][-1]['text'].split('x')[-1] }};{% endfor %}", BadRow, "turn 1"),
        ("{% for m in messages[-1:] %}{{ m['content'][-1]['text'] }}{% endfor %}", ModelError, "leaves out"),
        ("{{ raise_exception('only one turn') }}", ModelError, "only one turn"),
    ],
)
def test_templates_that_change_texts_are_refused(template: str, error: type[Exception], message: str) -> None:
    processor = processors.build("llava")[1]
    processor.chat_template = template
    with pytest.raises(error, match=message):
        ChatRenderer(processor).render(chat("axb", "red", "c", "blue"))


def test_mistakes_of_the_users_are_named() -> None:
    processor = built("llava")[1]
    with pytest.raises(ConfigError, match="max_length must be at least 1, not 0"):
        Collator(processor, max_length=0)
    with pytest.raises(ConfigError, match="padding_side must be left or right, not 'both'"):
        Collator(processor, padding_side="both")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="last one is the assistant's"):
        ChatRenderer(processor).render(chat("How?"))


def test_the_pocket_model_is_trained_on_the_same_tokens_as_by_its_own_lessons() -> None:
    import numpy as np
    from transformers import AutoProcessor

    from structdecode.pocket import checkpoint_path, world
    from structdecode.training.pocket import examples

    processor = AutoProcessor.from_pretrained(checkpoint_path())
    scenes = world.scenes("train", 0)
    for _ in range(10):
        example = examples.answering(next(scenes), np.random.default_rng(0))
        encoded = examples.encode(example, processor.tokenizer)
        assert example.scene is not None
        image = example.scene.render()
        batch = Collator(processor)([Example("p", chat(example.prompt, example.reply, images=1), (image,), "pocket")])
        assert batch["input_ids"][0, :-1].tolist() == encoded.ids
        assert batch["labels"][0, 1:].tolist() == encoded.targets
