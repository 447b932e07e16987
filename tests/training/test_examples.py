from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from structdecode.core.errors import ConfigError, DataError
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Schema
from structdecode.training.buckets import BucketSampler
from structdecode.training.examples import ConversationDataset
from structdecode.training.lengths import TokenCounter
from tests.backends.transformers import tiny
from tests.data.malformed import ANSWER, CONVERSATIONS, conversation, write_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pictures(tmp_path)
    Image.new("RGB", (60, 20), (255, 0, 0)).save(tmp_path / "wide.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (60, 20)).save(tmp_path / "turned.jpg", exif=turned)
    return tmp_path


def write(folder: Path, *rows: dict[str, Any] | bytes, end: bytes = b"\n") -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    (folder / "train.jsonl").write_bytes(b"".join(line + end for line in lines))
    return folder / "train.jsonl"


def two_pairs(name: str, image: str | None) -> dict[str, Any]:
    asked = ("<image>\n" if image else "") + "Was ist das? é"
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": f" {ANSWER}\n"}]
    turns += [{"from": "human", "value": "And now?"}, {"from": "gpt", "value": ANSWER.replace("dog", "cat")}]
    return {"id": name, **({"image": image} if image else {}), "conversations": turns}


def test_a_row_becomes_a_chat_with_its_picture_in_the_first_turn(folder: Path) -> None:
    (example,) = ConversationDataset(write(folder, two_pairs("a", "wide.png")))  # type: ignore[misc, attr-defined]
    assert example.messages == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Was ist das? é"}]},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER.replace("dog", "cat")}]},
    ]
    assert (example.id, example.source, example.images[0].size) == ("a", f"{folder}/train.jsonl:1", (60, 20))
    assert example.images[0].getpixel((0, 0)) == (255, 0, 0)


def test_the_schemas_instruction_is_around_every_question(folder: Path) -> None:
    schema = Schema("own", LLAVA_O1.stages, "Look. {question} Stage by stage.")
    data = ConversationDataset(write(folder, two_pairs("a", None)), schema=schema)
    asked = [m["content"][-1]["text"] for m in data[0].messages if m["role"] == "user"]
    assert asked == ["Look. Was ist das? é Stage by stage.", "Look. And now? Stage by stage."]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n  \n"])
def test_rows_are_found_by_their_bytes_wherever_they_are(folder: Path, end: bytes) -> None:
    damaged = [make(n) for n, (_, make) in enumerate(CONVERSATIONS.values())]
    rows = [two_pairs(f"r{n} ü", None) for n in range(5)]
    path = write(
        folder, b"\xef\xbb\xbf" + json.dumps(rows[0]).encode(), *damaged[:9], *rows[1:4], *damaged[9:], rows[4], end=end
    )
    data = ConversationDataset(path)
    texts = [
        json.loads(line.removeprefix(b"\xef\xbb\xbf"))["id"]
        for line in (path.read_bytes().split(b"\n")[i - 1] for i in data.lines)
    ]
    assert [data.conversation(i).id for i in range(len(data))] == [t if isinstance(t, str) else str(t) for t in texts]
    assert [name for name in texts if name.startswith("r")] == [row["id"] for row in rows]
    assert {r.problem for r in data.rejected} >= {
        "bad-json",
        "missing-tag",
        "turn-order",
        "not-utf8",
        "empty-stage",
        "path-escape",
    }


def test_nothing_of_texts_or_pictures_stays_in_memory(folder: Path) -> None:
    data = ConversationDataset(write(folder, *[two_pairs(f"r{n}", "wide.png") for n in range(1000)]))
    _ = [data[n] for n in range(5)]
    assert len(pickle.dumps(data)) < 40 * 1000 < (folder / "train.jsonl").stat().st_size / 10


def test_workers_read_the_same(folder: Path) -> None:
    data = ConversationDataset(write(folder, *[two_pairs(f"r{n}", "wide.png") for n in range(6)]))
    loader = DataLoader(data, batch_size=2, num_workers=2, collate_fn=lambda examples: [e.id for e in examples])
    assert [name for batch in loader for name in batch] == [f"r{n}" for n in range(6)]


@pytest.mark.parametrize("image", ["cut.png", "nowhere.png", "text.png", "bomb.png"])
def test_a_row_whose_picture_cannot_be_used_is_left_out_before_and_never_replaced(folder: Path, image: str) -> None:
    from tests.training import processors

    rows = [conversation(0), conversation(1, image=image), conversation(2), conversation(3, image=image)]
    data = ConversationDataset(write(folder, *rows))
    with pytest.raises(DataError, match=rf"train\.jsonl:2: .*{image}"):
        data[1]
    usable = data.usable(TokenCounter(processors.build("llava")[1]))
    assert [usable[i].id for i in range(len(usable))] == ["c0", "c2"]
    assert [rejected.line for rejected in usable.rejected] == [2, 4] and not data.rejected


@pytest.mark.parametrize("architecture", ["mllama", "llava"])
def test_a_row_that_holds_the_models_own_mark_is_left_out_before(folder: Path, architecture: str) -> None:
    from tests.training import processors

    processor = processors.build(architecture)[1]
    marked = ANSWER.replace("dog", f"dog {processor.image_token}")
    data = ConversationDataset(write(folder, conversation(0), conversation(1, marked)))
    usable = data.usable(TokenCounter(processor))
    assert len(usable) == 1 and [rejected.problem for rejected in usable.rejected] == ["image-token-in-text"]


def test_mistakes_of_the_users_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        ConversationDataset(folder / "none.jsonl")
    with pytest.raises(DataError, match="none of 1 rows is good"):
        ConversationDataset(write(folder, {"id": 1}))
    with pytest.raises(DataError, match=r"train\.jsonl:1: .*leave the row out"):
        ConversationDataset(write(folder, conversation(1)), images=folder / "elsewhere")[0]
    data = ConversationDataset(write(folder, conversation(1), conversation(2)))
    write(folder, conversation("other", ANSWER + ANSWER), conversation(2))
    with pytest.raises(DataError, match=r"train\.jsonl:1: the file changed"):
        data[0]


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_lengths_without_pixels_are_those_of_the_batch(folder: Path, architecture: str) -> None:
    from structdecode.backends.transformers.collate import Collator
    from tests.training import processors

    processor = processors.build(architecture)[1]
    rows = [two_pairs("a", "wide.png"), two_pairs("b", None), conversation("c", image="turned.jpg")]
    data = ConversationDataset(write(folder, *rows))
    exact = [int(Collator(processor)([data[i]])["attention_mask"].sum()) for i in range(3)]
    counter = TokenCounter(processor)
    assert data.usable(counter, max(exact)).lengths.tolist() == exact
    shorter = data.usable(counter, max(exact) - 1)
    assert [shorter[i].id for i in range(len(shorter))] == [
        d.id for d, n in zip(data, exact, strict=False) if n < max(exact)
    ]  # type: ignore[call-overload]
    assert {r.problem for r in shorter.rejected} == {"too-long"} and f"{max(exact)} tokens" in shorter.rejected[
        0
    ].message
    with pytest.raises(DataError, match=r"no row can be used; the first, line 1: .*more than 3"):
        data.usable(counter, 3)


LENGTHS = np.random.default_rng(0).integers(10, 2000, 1003)


def test_an_epoch_is_every_example_once_in_batches_of_one_length() -> None:
    sampler = BucketSampler(LENGTHS, 8, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(1003)) and len(sampler) == 1003
    batches = [LENGTHS[order[at : at + 8]] for at in range(0, 1003, 8)]
    padding = sum(len(b) * b.max() - b.sum() for b in batches) / LENGTHS.sum()
    shuffled = np.random.default_rng(1).permutation(LENGTHS)
    plain = sum(len(b) * b.max() - b.sum() for b in (shuffled[at : at + 8] for at in range(0, 1003, 8))) / LENGTHS.sum()
    assert padding < 0.1 * plain, (padding, plain)
    assert batches[0].max() == LENGTHS.max()  # what does not fit into memory shows at once
    means = [b.mean() for b in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3  # batches themselves are shuffled


def test_orders_differ_by_epoch_and_seed_and_by_nothing_else() -> None:
    first = BucketSampler(LENGTHS, 8, seed=1)
    one, two = list(first), list(first)
    assert one != two and first.epoch == 2
    assert one == list(BucketSampler(LENGTHS.tolist(), 8, seed=1))
    assert one != list(BucketSampler(LENGTHS, 8, seed=2))


@pytest.mark.parametrize("seen", [0, 1, 8, 500, 1002, 1003, 1500, 2006])
def test_a_resumed_sampler_goes_on_where_the_other_was(seen: int) -> None:
    whole = [i for epoch in range(3) for i in BucketSampler(LENGTHS, 8, seed=3).order(epoch).tolist()]
    resumed = BucketSampler(LENGTHS, 8, seed=3)
    resumed.seek(seen)
    resumed.set_epoch(resumed.epoch)  # a trainer says so before each epoch
    assert [*resumed, *resumed][:900] == whole[seen : seen + 900]

    drawn = BucketSampler(LENGTHS, 8, seed=3)
    steps = iter(drawn)
    taken = []
    while len(taken) < seen:
        try:
            taken.append(next(steps))
        except StopIteration:
            steps = iter(drawn)
    other = BucketSampler(LENGTHS, 8, seed=3)
    other.load_state_dict(json.loads(json.dumps(drawn.state_dict())))
    assert taken == whole[:seen]
    assert [*other, *other, *other][:900] == whole[seen : seen + 900]


def test_a_state_of_another_order_is_refused() -> None:
    state = BucketSampler(LENGTHS, 8, seed=3).state_dict()
    for other in (BucketSampler(LENGTHS, 4, seed=3), BucketSampler(LENGTHS, 8), BucketSampler(LENGTHS[1:], 8, seed=3)):
        with pytest.raises(ConfigError, match="give the same"):
            other.load_state_dict(state)
    for wrong in ({"batch_size": 0}, {"batch_size": 8, "pool": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            BucketSampler(LENGTHS, **wrong)


def test_a_batch_never_mixes_groups_and_nothing_is_left_out() -> None:
    pictures = np.random.default_rng(1).integers(0, 20, 1003) > 0
    sampler = BucketSampler(LENGTHS, 8, seed=1, groups=pictures)
    for _ in range(2):
        order = np.array(list(sampler))
        assert len(order) == len(sampler) and len(order) % 8 == 0
        batches = pictures[order.reshape(-1, 8)]
        assert (batches.all(axis=1) | ~batches.any(axis=1)).all() and 0 < batches.all(axis=1).mean() < 1
        counts = np.bincount(order, minlength=1003)
        assert counts.min() == 1 and counts.sum() - 1003 < 16  # filled up, by less than a batch a group
    with pytest.raises(ConfigError, match="1003 lengths and 3 groups"):
        BucketSampler(LENGTHS, 8, groups=[1, 2, 3])


def test_few_examples_are_no_special_case() -> None:
    assert sorted(BucketSampler([5, 3, 9], 8)) == [0, 1, 2]
    assert list(BucketSampler([5], 1)) == [0]
    assert list(BucketSampler([5], 4, groups=[1])) == [0, 0, 0, 0]
    with pytest.raises(ConfigError, match="no examples"):
        BucketSampler([], 8)
