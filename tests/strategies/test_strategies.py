"""Strategies on scripted models where the right choice is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import structdecode as sd
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.protocols import Model
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Schema, Score, Stage

SCHEMA = Schema("abc", tuple(Stage.tagged(name) for name in "ABC"))


def noisy(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    """Each stage is right one time in three, whatever went before."""
    return f"{'right' if seed % 3 == 0 else 'wrong'}{stage.end}"


class Oracle:
    """Counts the right stages."""

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return [Score(float(list(c.stages.values()).count("right"))) for c in candidates]


def share_right(strategy: object, n: int = 150) -> tuple[float, float]:
    """Share of wholly right answers, and candidates' spans written per question."""
    right = spans = 0
    for i in range(n):
        result = sd.decode(
            Prompt("?"),
            backend=ScriptedBackend(noisy),
            schema=SCHEMA,
            strategy=strategy,
            sample_id=str(i),  # type: ignore[arg-type]
        )
        right += set(result.stages.values()) == {"right"}
        spans += sum(event["kind"] == "candidate" for event in result.trace.events)
    return right / n, spans / n


def test_choosing_after_each_stage_beats_choosing_at_the_end_at_equal_cost() -> None:
    """With a perfect verifier: 1-(2/3)^4 a stage, cubed, against 1-(26/27)^4."""
    beam, beam_cost = share_right(build("strategies", "stage-beam", {"candidates": 4, "verifier": Oracle()}))
    best, best_cost = share_right(build("strategies", "best-of-n", {"n": 4, "verifier": Oracle()}))
    assert beam_cost == best_cost == 12
    assert beam == pytest.approx((1 - (2 / 3) ** 4) ** 3, abs=0.12)
    assert best == pytest.approx(1 - (26 / 27) ** 4, abs=0.09)


def test_more_beams_find_what_a_late_verifier_shows() -> None:
    """A verifier that is blind until the last stage: with one beam the first choice is luck, with more it is not."""

    class Late(Oracle):
        async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
            scores = await super().score(prompt, candidates, model)
            return scores if candidates[0].last_stage == "C" else [Score(0.0)] * len(candidates)

    one, _ = share_right(build("strategies", "stage-beam", {"candidates": 6, "beams": 1, "verifier": Late()}))
    six, _ = share_right(build("strategies", "stage-beam", {"candidates": 6, "beams": 6, "verifier": Late()}))
    assert six > one + 0.15


def test_beams_are_kept_and_extended() -> None:
    strategy = build("strategies", "stage-beam", {"candidates": 3, "beams": 2, "verifier": Oracle()})
    result = sd.decode(Prompt("?"), backend=ScriptedBackend(noisy), schema=SCHEMA, strategy=strategy)
    events = [event for event in result.trace.events if event["kind"] == "candidate"]
    by_stage = [sum(len(e["path"]) == depth for e in events) for depth in (1, 2, 3)]
    assert by_stage == [3, 6, 6]
    assert len({tuple(e["path"][:1]) for e in events if len(e["path"]) == 2}) == 2
    values = [r.score.value for r in result.candidates]
    assert values == sorted(values, reverse=True)


def test_sentence_beam_chooses_at_every_full_stop() -> None:
    def sentences(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        done = prefix.stages.get(stage.name, "").count(".") if prefix.open_stage else 0
        word = "right" if seed % 3 == 0 else "wrong"
        return f" {word}." if done < 2 else f" {word} {stage.end}"

    class Words:
        async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
            texts = [" ".join(c.stages.values()) for c in candidates]
            return [Score(float(t.count("right") - t.count("wrong"))) for t in texts]

    strategy = build("strategies", "sentence-beam", {"candidates": 8, "verifier": Words()})
    result = sd.decode(Prompt("?"), backend=ScriptedBackend(sentences), schema=SCHEMA, strategy=strategy)
    assert result.stages == dict.fromkeys("ABC", "right. right. right")
    assert result.best is not None and result.best.valid
    assert len(result.best.spans) == 9
    assert result.best.text.count("<A>") == result.best.text.count("</A>") == 1


def test_sentence_beam_ends_with_a_model_that_never_closes_a_stage() -> None:
    endless = ScriptedBackend(lambda *_: " on and on.")
    strategy = build("strategies", "sentence-beam", {"candidates": 2, "max_sentences": 5})
    result = sd.decode(Prompt("?"), backend=endless, schema=SCHEMA, strategy=strategy)
    assert list(result.stages) == ["A", "B", "C"]


def test_majority_wins_and_malformed_answers_do_not_vote() -> None:
    answers = iter(["7", "The answer is 3.", "3", "(broken", "7.0", "3"])

    def model(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        text = next(answers)
        return text if text == "(broken" else text + stage.end

    schema = Schema("one", (Stage.tagged("A"),))
    strategy = build("strategies", "self-consistency", {"n": 6})
    result = sd.decode(Prompt("?"), backend=ScriptedBackend(model), schema=schema, strategy=strategy)
    assert result.candidates[0].score.value == 0.5
    assert "3" in result.answer
    assert not result.candidates[-1].candidate.valid


def test_single_paths_are_greedy_unless_told_otherwise() -> None:
    for name in ("direct", "cot", "staged"):
        assert build("strategies", name).sampling(Stage("A")).greedy
        assert not build("strategies", name, {"temperature": "none"}).sampling(Stage("A")).greedy


def test_malformed_candidates_rank_last_and_are_kept() -> None:
    def model(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
        return "right" if seed % 2 else f"wrong{stage.end}"

    strategy = build("strategies", "stage-beam", {"candidates": 8, "verifier": Oracle()})
    result = sd.decode(Prompt("?"), backend=ScriptedBackend(model), schema=SCHEMA, strategy=strategy)
    assert len(result.draws) == 8
    validity = [r.candidate.valid for r in result.candidates]
    assert validity == sorted(validity, reverse=True) and not all(validity)
