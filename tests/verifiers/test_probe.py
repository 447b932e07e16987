"""A probe on the generator's own hidden states, held against its formula over transformers' own ``hidden_states``."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from structdecode.backends.scripted import ScriptedBackend
from structdecode.backends.transformers.backend import TransformersBackend
from structdecode.core.engine import decode
from structdecode.core.errors import ConfigError, ModelError
from structdecode.core.protocols import Decoder
from structdecode.core.results import Result
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Ranked, Sampling, Schema, Score, Span, rank
from structdecode.pocket import world
from structdecode.strategies.best_of_n import BestOfN
from structdecode.strategies.stage_beam import StageBeam
from structdecode.testing import EchoModel, check_verifier, scripted
from structdecode.training.probe.run import save
from structdecode.verifiers.probe import FILE, WEIGHTS, GatedLinear, Probe, ProbeConfig

SCENE = next(world.scenes("test", 0))
PROMPT = Prompt(SCENE.question.text, [SCENE.render()])
TEXTS = tuple(SCENE.stages.values())
LAYERS, WIDTH = (8, 4), 128
SAMPLED = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 120}


def make(place: Path, schema: Schema = LLAVA_O1, layers: Sequence[int] = LAYERS, width: int = WIDTH) -> str:
    """A probe that nobody trained."""
    rng = np.random.default_rng(0)
    probe = GatedLinear(rng.normal(0, 0.2, (2, len(layers) * width)), np.array([0.3, -0.2]))
    config = ProbeConfig.of(schema, separator=schema.separator, layers=tuple(layers), width=width)
    save(probe, config, place)
    return str(place)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("probe") / "model")


@pytest.fixture(scope="module", params=["slots", "plain"])
def backend(request: pytest.FixtureRequest) -> Iterator[TransformersBackend]:
    with TransformersBackend.load("pocket", check=False, engine=request.param) as loaded:
        yield loaded


def ask(verifier: Probe, *candidates: Candidate, model: Any, prompt: Prompt = PROMPT) -> list[Score]:
    return asyncio.run(verifier.score(prompt, candidates, model))


def on(backend: Any) -> Any:
    return EchoModel().on(backend)


def written(*texts: str, last_closed: bool = True) -> Candidate:
    """As a trace has it: without tokens."""
    spans = [Span(stage.name, text) for stage, text in zip(LLAVA_O1.stages, texts, strict=False)]
    return Candidate((*spans[:-1], replace(spans[-1], closed=last_closed)))


def naive(backend: TransformersBackend, probe: Probe, prompt: str, candidate: Candidate) -> dict[str, float]:
    """What stages add to the log-odds: one forward pass of transformers over all of it, and the paper's formula."""
    weights = {name: torch.tensor(value) for name, value in load_file(Path(probe.path) / WEIGHTS).items()}
    start = f"<|bos|><|user|><|image|>{prompt}<|assistant|>"
    batch = backend.processor(
        text=[start], images=[[PROMPT.images[0].image]], add_special_tokens=False, return_tensors="pt"
    )
    length, own = batch["input_ids"].shape[1], torch.tensor([candidate.token_ids])
    batch["input_ids"] = torch.cat([batch["input_ids"], own], 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    seen = batch["cross_attention_mask"]
    batch["cross_attention_mask"] = torch.cat([seen, seen[:, -1:].expand(-1, own.shape[1], -1, -1)], 1)
    with torch.no_grad():
        states = backend.model(**batch, output_hidden_states=True).hidden_states
    ends, at = {}, length
    for span in candidate.spans:
        at += len(span.all_ids)
        ends[span.stage] = torch.cat([states[layer][0, at - 1] for layer in probe.hidden_layers]).double()
    h = torch.stack(list(ends.values()))
    g, r = (h @ weights["weight"].T + weights["bias"]).unbind(1)
    gates = torch.sigmoid(g)
    return dict(zip(ends, (gates * r / gates.sum()).tolist(), strict=True))


def sampled(backend: TransformersBackend, schema: Schema = LLAVA_O1, seed: int = 1) -> list[Candidate]:
    strategy = build("strategies", "best-of-n", {"n": 3, "verifier": "log-prob", **SAMPLED})
    return [
        r.candidate for r in decode(PROMPT, backend=backend, strategy=strategy, schema=schema, seed=seed).candidates
    ]


def test_scores_are_the_formula_over_transformers_hidden_states(backend: TransformersBackend, directory: str) -> None:
    probe, candidates = Probe(directory), sampled(backend)
    partial = [Candidate(candidates[0].spans[:length]) for length in (1, 2, 3)]
    for candidate, score in zip(
        [*candidates, *partial], ask(probe, *candidates, *partial, model=on(backend)), strict=True
    ):
        expected = naive(backend, probe, PROMPT.question, candidate)
        assert score.details["contributions"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert list(score.details["contributions"]) == list(candidate.stages)
        assert score.details["log_odds"] == pytest.approx(sum(expected.values()), rel=1e-4, abs=1e-5)
        assert score.value == pytest.approx(1 / (1 + np.exp(-sum(expected.values()))), rel=1e-4)


def test_it_reads_behind_the_searchs_own_prompt(backend: TransformersBackend, tmp_path: Path) -> None:
    schema = replace(LLAVA_O1, name="told", instruction="{question} How many red squares are there?")
    probe, model = Probe(make(tmp_path / "model", schema)), EchoModel()
    (candidate, *_) = sampled(backend, schema)
    ask(probe, candidate, model=model)
    assert [asked.question for asked in model.asked] == [schema.ask(PROMPT).question]
    (score,) = ask(probe, candidate, model=on(backend))
    expected = naive(backend, probe, schema.ask(PROMPT).question, candidate)
    assert score.details["contributions"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_text_without_tokens_is_read_as_a_search_writes_it(backend: TransformersBackend, directory: str) -> None:
    candidates = sampled(backend)
    texts = [written(*candidate.stages.values()) for candidate in candidates]
    found = ask(Probe(directory), *candidates, *texts, model=on(backend))
    for one, other in zip(found[: len(texts)], found[len(texts) :], strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4)


def test_noise_of_the_states_grows_with_the_weights(backend: TransformersBackend, directory: str) -> None:
    (score,) = ask(Probe(directory), written(*TEXTS), model=on(backend))
    norm = np.linalg.norm(load_file(Path(directory) / WEIGHTS)["weight"])
    assert norm > 2 and score.resolution == pytest.approx(backend.resolution * norm)


class Listening(EchoModel):
    """Keeps what it is given to read."""

    async def read(self, prompt: Prompt, answers: Any, *, hidden_layers: Sequence[int] = ()) -> list[list[Span]]:
        self.answers, self.layers = answers, hidden_layers
        return await super().read(prompt, answers, hidden_layers=hidden_layers)


def test_pieces_are_the_searchs_own_tokens_or_its_texts(directory: str) -> None:
    tokens = (
        Span("SUMMARY", "a", token_ids=(5, 6), prefix_ids=(1,), suffix_ids=(2,)),
        Span("CAPTION", "b", token_ids=(7,), prefix_ids=(3,), closed=False),
        Span("CAPTION", "c", token_ids=(8, 4)),
    )
    model = Listening()
    ask(Probe(directory), Candidate(tokens), written("a", "b", last_closed=False), model=model)
    texts = ["<SUMMARY>", " a </SUMMARY>", "\n\n<CAPTION>", " b"]
    assert model.answers == [[(1, 5, 6, 2), (3, 7), (8, 4)], texts] and model.layers == LAYERS


def test_a_stage_of_several_spans_ends_with_the_last(backend: TransformersBackend, directory: str) -> None:
    """Told by the strategy or read."""
    probe = Probe(directory)

    @dataclass(frozen=True)
    class Pieces:
        layers: tuple[int, ...]

        async def __call__(self, schema: Schema, decoder: Decoder) -> list[Ranked]:
            begun, whole = (
                {"leave_open": True, "sampling": Sampling(max_tokens=4)},
                {"sampling": Sampling(max_tokens=60)},
            )
            found = [decoder.root]
            for stage in schema.stages[:2]:
                for how in (begun, whole):
                    found = await decoder.extend(found, stage, hidden_layers=self.layers, **how)  # type: ignore[arg-type]
            return rank(found, await decoder.score(probe, found))

    for layers in ((), LAYERS):
        (best, *_) = decode(PROMPT, backend=backend, strategy=Pieces(layers), seed=2).candidates
        assert [span.stage for span in best.candidate.spans] == ["SUMMARY", "SUMMARY", "CAPTION", "CAPTION"]
        expected = naive(backend, probe, PROMPT.question, best.candidate)
        assert best.score.details["contributions"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert list(best.score.details["contributions"]) == ["SUMMARY", "CAPTION"]


def test_an_open_stage_is_read_where_it_is(backend: TransformersBackend, directory: str) -> None:
    begun, closed = (written(*TEXTS[:2], last_closed=closed) for closed in (False, True))
    one, other = ask(Probe(directory), begun, closed, model=on(backend))
    assert list(one.details["contributions"]) == ["SUMMARY", "CAPTION"] and one.value != pytest.approx(other.value)


@dataclass(frozen=True)
class Telling:
    """Two samples of each stage, with the hidden states that are asked for."""

    verifier: Any
    layers: tuple[int, ...]

    async def __call__(self, schema: Schema, decoder: Decoder) -> list[Ranked]:
        found = [decoder.root]
        for stage in schema.stages:
            found = await decoder.extend(
                found, stage, n=2 if len(found) == 1 else 1, sampling=Sampling(max_tokens=60), hidden_layers=self.layers
            )
        return rank(found, await decoder.score(self.verifier, found))


def test_states_that_the_strategy_asked_for_cost_nothing(backend: TransformersBackend, directory: str) -> None:
    probe = Probe(directory)

    def run(layers: tuple[int, ...]) -> Result:
        return decode(PROMPT, backend=backend, strategy=Telling(probe, layers), seed=4)

    read = run(())
    assert read.usage_by_part["verifier"].prefilled_tokens > 0
    assert probe.hidden_layers == LAYERS
    for layers in (LAYERS, (4, 0, 8)):
        told = run(layers)
        used = told.usage_by_part["verifier"]
        assert used.prefilled_tokens == used.model_calls == used.images_encoded == 0
        for one, other in zip(told.candidates, read.candidates, strict=True):
            assert one.candidate.content == other.candidate.content and one.score.value == pytest.approx(
                other.score.value, rel=1e-4
            )
    others = run((8, 3))
    assert others.usage_by_part["verifier"].prefilled_tokens > 0, "states of other layers are of no use"
    assert [r.score.value for r in others.candidates] == pytest.approx(
        [r.score.value for r in read.candidates], rel=1e-4
    )


def test_a_stage_beam_pays_for_new_text_alone(backend: TransformersBackend, directory: str) -> None:
    strategy = StageBeam(candidates=4, beams=2, verifier=Probe(directory))
    result = decode(PROMPT, backend=backend, strategy=strategy, seed=3)
    made = {tuple(event["path"]): event for event in result.trace.events if event["kind"] == "candidate"}
    scored = [event for event in result.trace.events if event["kind"] == "score"]
    assert len(scored) == 4 and all(value is not None for event in scored for value in event["values"])
    texts = {tuple(made[path[:end]]["text"] for end in range(1, len(path) + 1)): path for path in made}
    with_tags = [f"<{made[path]['stage']}> {made[path]['text']} </{made[path]['stage']}>" for path in texts.values()]
    used = result.usage_by_part["verifier"]
    prompt = 0 if backend.engine == "slots" else backend.codec.inputs(PROMPT)["input_ids"].shape[1]
    new = sum(len(backend.codec.encode(text)) for text in with_tags)
    assert used.prefilled_tokens == prompt + new, "the plain engine shares no prompts"
    assert used.images_encoded == 0 and used.model_calls == 4 and len(texts) > 5


def test_it_keeps_the_laws_of_verifiers(backend: TransformersBackend, directory: str) -> None:
    check_verifier(Probe(directory))
    check_verifier(Probe(directory), [written(*TEXTS), written(*TEXTS[:2])], on(backend), PROMPT)


def test_what_cannot_be_scored_is_named_and_costs_the_others_nothing(
    backend: TransformersBackend, directory: str, tmp_path: Path
) -> None:
    foreign, long = Candidate((Span("PLAN", "first"),)), written(TEXTS[0], "a1 red square. " * 200)
    probe, model = Probe(directory), on(backend)
    fine, *rest = ask(probe, written(*TEXTS), foreign, Candidate(), long, model=model)
    assert fine.value == pytest.approx(ask(probe, written(*TEXTS), model=model)[0].value, rel=1e-4)
    assert [score.value for score in rest] == [None] * 3
    assert rest[0].reason == "the probe was trained on SUMMARY, CAPTION, REASONING, CONCLUSION, not on PLAN"
    assert rest[1].reason == "nothing is written yet" and "the model's context is 512" in rest[2].reason
    (wide,) = ask(Probe(make(tmp_path / "wide", width=64)), written(*TEXTS), model=model)
    assert wide == Score.unscored("the probe reads hidden states of width 64; this model's have 128")
    with pytest.raises(ConfigError, match="hidden_layers: 30 is none of the model's: 0"):
        ask(Probe(make(tmp_path / "deep", layers=(30,))), written(*TEXTS), model=model)


def test_a_model_without_hidden_states_leaves_candidates_unscored(directory: str) -> None:
    result = decode(PROMPT, backend=ScriptedBackend(scripted), strategy=BestOfN(n=2, verifier=Probe(directory)))
    assert {ranked.score.reason for ranked in result.candidates} == {"the model gives no hidden states"}


def test_mistakes_are_said_before_any_work(directory: str, tmp_path: Path) -> None:
    assert build("verifiers", "probe", {"path": directory}) == Probe(directory)
    with pytest.raises(ConfigError, match="'probe' needs path"):
        build("verifiers", "probe")
    with pytest.raises(
        ConfigError, match="probe 'none': no such directory: make one with `structdecode train-verifier`"
    ):
        build("verifiers", "probe", {"path": "none"})
    with pytest.raises(ConfigError, match=r"no probe\.json in it"):
        Probe(str(tmp_path))


def damaged(tmp_path: Path, name: str, content: Any) -> str:
    place = Path(make(tmp_path / "damaged"))
    if name == WEIGHTS and isinstance(content, dict):
        save_file({**load_file(place / WEIGHTS), **content}, place / WEIGHTS)
    elif isinstance(content, dict):
        (place / name).write_text(json.dumps({**json.loads((place / name).read_text()), **content}))
    else:
        (place / name).write_bytes(content)
    return str(place)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (FILE, b"{", "not a probe's description"),
        (FILE, {"format": "other"}, "format 'other', not 'structdecode-probe/1'"),
        (FILE, {"layers": ["last"]}, r"damaged: layers\[0\] is 'last', not a whole number"),
        (FILE, {"stages": [["A", "<A>"]]}, "damaged: stages are different names"),
        (FILE, {"layers": [4]}, "probe.safetensors: damaged: not finite numbers of the shapes"),
        (WEIGHTS, b"weights", "probe.safetensors: "),
        (WEIGHTS, {"bias": np.array([0.0, np.nan])}, "damaged: not finite"),
        (WEIGHTS, {"more": np.zeros(1)}, "damaged: not finite numbers of the shapes"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Probe(damaged(tmp_path, name, content))


def test_another_training_at_the_same_path_is_another_verifier(tmp_path: Path) -> None:
    path = make(tmp_path / "model")
    first = Probe(path)
    assert first == Probe(path) == pickle.loads(pickle.dumps(first)) and hash(first) == hash(Probe(path))
    weights = load_file(tmp_path / "model" / WEIGHTS)
    weights["bias"][1] += 1e-9
    save_file(weights, tmp_path / "model" / WEIGHTS)
    other = Probe(path)
    assert other != first and other.digest != first.digest
    described = json.loads((tmp_path / "model" / FILE).read_text())
    (tmp_path / "model" / FILE).write_text(json.dumps({**described, "trained": {"sha256": "another"}}))
    assert Probe(path) not in (first, other)
