from __future__ import annotations

import asyncio
import gc
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity
from transformers import AutoImageProcessor, AutoModel

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.budget import Budget, Usage
from structdecode.core.engine import decode
from structdecode.core.errors import BudgetSpent, ConfigError, ModelError
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.pocket import checkpoint_path
from structdecode.strategies.best_of_n import BestOfN
from structdecode.testing import EchoModel, candidate, check_verifier, scripted
from structdecode.verifiers import image_text_encoder, own_model
from structdecode.verifiers.image_text import ImageText
from tests.verifiers import dual_encoders
from tests.verifiers.dual_encoders import CONTEXT

RNG = np.random.default_rng(0)
PICTURES = [Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]
PROMPT = Prompt("What?", PICTURES[:1])


@pytest.fixture(scope="module", params=["clip", "siglip"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dual_encoders.save(request.param, tmp_path_factory.mktemp(request.param) / "model")


def score(verifier: ImageText, *given: Candidate, prompt: Prompt = PROMPT, model: Any = None) -> list[Score]:
    return asyncio.run(verifier.score(prompt, given, model or EchoModel()))


@torch.inference_mode()
def naive(checkpoint: Path, text: str, picture: Image.Image) -> float:
    """One text and one picture through the model's own forward pass."""
    model = AutoModel.from_pretrained(checkpoint).eval()
    ids = dual_encoders.tokenizer()(
        [text], padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )
    given = {key: ids[key] for key in ("input_ids", "attention_mask")}
    processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
    found = model(**given, pixel_values=pixels)
    return float(cosine_similarity(found.text_embeds, found.image_embeds))


def test_each_sentence_is_compared_as_the_models_own_forward_pass_does(checkpoint: Path) -> None:
    caption = candidate("s", "A red square. No blue circle! a square is blue")
    (mean,) = score(ImageText(str(checkpoint)), caption)
    sentences = ["A red square", "No blue circle", "a square is blue"]
    expected = [naive(checkpoint, text, PICTURES[0]) for text in sentences]
    assert mean.details["sentences"] == pytest.approx(dict(zip(sentences, expected, strict=True)), abs=1e-5)
    assert mean.value == pytest.approx(sum(expected) / 3, abs=1e-5) and len({round(v, 3) for v in expected}) == 3
    (least,) = score(ImageText(str(checkpoint), aggregate="min"), caption)
    assert least.value == pytest.approx(min(expected), abs=1e-5)
    assert least.reason == f"fits least: {sentences[expected.index(min(expected))]}"
    other = Prompt("What?", PICTURES[1:])
    best = max(naive(checkpoint, sentences[0], picture) for picture in PICTURES[1:])
    (found,) = score(ImageText(str(checkpoint)), candidate("s", sentences[0]), prompt=other)
    assert found.value == pytest.approx(best, abs=1e-5)


def test_what_is_longer_than_the_context_is_cut_and_said_so(checkpoint: Path) -> None:
    long, fits = "red " * CONTEXT + "blue", "red " * (CONTEXT - 2)
    whole, short = score(ImageText(str(checkpoint)), candidate("s", f"{long}. a"), candidate("s", fits))
    assert whole.details["cut"] == [long] and short.details["cut"] == []
    assert whole.details["sentences"][long] == pytest.approx(short.value, abs=1e-5)


def test_work_is_charged_before_it_is_done_and_a_picture_is_encoded_once(checkpoint: Path) -> None:
    verifier, model = ImageText(str(checkpoint)), EchoModel()
    given = [candidate("s", "a red square. a blue circle."), candidate("s", "a blue circle.", "r")]
    prompt = Prompt("?", PICTURES[:2])
    score(verifier, *given, prompt=prompt, model=model)
    first = model.charged
    assert first == Usage(prefilled_tokens=2 * CONTEXT, images_encoded=2, model_calls=1, flops=first.flops)
    score(verifier, *given, prompt=prompt, model=model)
    text = 2 * CONTEXT * verifier.__dict__["_loaded"].cost.per_token
    assert model.charged.images_encoded == 2 and model.charged.flops == pytest.approx(first.flops + text)
    assert first.flops - text == pytest.approx(2 * verifier.__dict__["_loaded"].cost.picture(30, 20)) and text > 1e4

    class PoorModel(EchoModel):
        def charge(self, usage: Usage) -> None:
            raise BudgetSpent("prefill_tokens")

    with pytest.raises(BudgetSpent):
        score(verifier, candidate("s", "no"), prompt=Prompt("?", PICTURES[2:]), model=PoorModel())
    assert Prompt("?", PICTURES[2:]).images[0].digest not in verifier.__dict__["_loaded"]._pictures, "nothing was done"


def test_the_least_recent_picture_is_forgotten(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_text_encoder, "PICTURES", 2)
    gc.collect()  # other tests' verifiers, which errors held
    verifier, text, encoded = ImageText(str(checkpoint)), candidate("s", "a red square"), []
    for at in (0, 1, 0, 2, 0, 1):
        model = EchoModel()
        score(verifier, text, prompt=Prompt("?", [PICTURES[at]]), model=model)
        encoded.append(model.charged.images_encoded)
    assert encoded == [1, 1, 0, 1, 0, 1]
    together, _ = score(verifier, text, text, prompt=Prompt("?", PICTURES))
    alone = [score(verifier, text, prompt=Prompt("?", [picture]))[0].value for picture in PICTURES]
    assert together.value == pytest.approx(max(alone), abs=1e-6)  # type: ignore[type-var]


def test_verifiers_of_one_path_share_the_weights_as_long_as_one_holds_them(checkpoint: Path) -> None:
    one, other = ImageText(str(checkpoint)), ImageText(str(checkpoint), "min")
    score(one, candidate("s", "a"))
    score(other, candidate("s", "a"))
    assert other.__dict__["_loaded"] is one.__dict__["_loaded"]
    assert pickle.loads(pickle.dumps(one)) == one and one != other
    gc.collect()
    before = len(own_model._in_memory)
    del one, other
    gc.collect()
    assert len(own_model._in_memory) == before - 1


def test_a_search_pays_for_it(checkpoint: Path) -> None:
    strategy = BestOfN(n=3, verifier=ImageText(str(checkpoint)))
    found = decode(PROMPT, backend=ScriptedBackend(scripted), strategy=strategy)
    spent = found.usage_by_part["verifier"]
    assert (
        all(r.score.scored for r in found.candidates)
        and spent.model_calls == 1
        and spent.flops == found.own_models.flops > 0
    )
    limit = Budget(prefill_tokens=found.usage.prefilled_tokens - 1)
    stopped = decode(PROMPT, backend=ScriptedBackend(scripted), strategy=strategy, budget=limit)
    assert stopped.stopped_by == "prefill_tokens" and not stopped.candidates[0].score.scored


def test_laws_and_what_has_no_score(checkpoint: Path) -> None:
    verifier = ImageText(str(checkpoint))
    check_verifier(verifier, prompt=PROMPT)
    check_verifier(verifier)
    begun = [candidate("s"), candidate("s", ". ."), candidate("s", "a red square.")]
    reasons = [s.reason for s in score(verifier, *begun)]
    assert reasons[:2] == ["no CAPTION yet"] * 2 and reasons[2].startswith("fits least")
    assert score(verifier, *begun[:1])[0].reason == "no CAPTION yet"
    assert score(verifier, begun[2], prompt=Prompt("?")) == [Score.unscored("there is no picture")]


def test_mistakes(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no directory with a checkpoint"):
        ImageText(str(tmp_path))
    with pytest.raises(ConfigError, match="aggregate"):
        ImageText(str(checkpoint), aggregate="max")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="not a CLIP or SigLIP"):
        score(ImageText(str(checkpoint_path())), candidate("s", "a"))
    with pytest.raises(ConfigError, match="device 'moon'"):
        score(ImageText(str(checkpoint), device="moon"), candidate("s", "a"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError):
        score(ImageText(str(tmp_path)), candidate("s", "a"))


def test_other_weights_at_the_same_path_are_another_verifier(checkpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(checkpoint, place)
    before = ImageText(str(place))
    config = place / "config.json"
    config.write_text(config.read_text() + "\n")
    assert ImageText(str(place)) != before
    with pytest.raises(ConfigError, match="has changed since this verifier was made"):
        score(before, candidate("s", "a"))


def test_making_one_needs_no_torch(checkpoint: Path) -> None:
    code = "import sys; from structdecode.verifiers.image_text import ImageText; ImageText(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(checkpoint)], check=True)
