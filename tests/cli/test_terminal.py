"""What a person reads of a search's choices agrees with what the search did."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

import structdecode as sd
from structdecode.cli import demo
from structdecode.cli.terminal import _choices
from structdecode.core.settings import build
from structdecode.core.view import render

SCORES = {(0,): 1.0, (1,): 2 / 3, (0, 0): 0.2, (0, 1): 0.3, (1, 0): 0.9, (1, 1): 0.4, (1, 0, 0): 0.5, (1, 0, 1): 0.8}


def searched(beams: int) -> sd.Result:
    """The second summary is worse than the first, and its continuations better."""

    def score(candidate: sd.Candidate) -> float:
        return SCORES.get(candidate.path, 0.1)

    settings: dict[str, Any] = {"candidates": 2, "beams": beams}
    verifier = build("verifiers", "callable", {"function": score})
    strategy = build("strategies", "stage-beam", {**settings, "verifier": verifier})
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"{seed} {stage.end}")
    return sd.decode(sd.Prompt("?"), backend=backend, strategy=strategy)


def shown(result: sd.Result) -> str:
    place = io.StringIO()
    Console(file=place, width=120).print(_choices(result))
    return " ".join(place.getvalue().split())


def test_a_second_beam_that_wins_later_is_not_called_better_than_what_beat_it() -> None:
    result = searched(beams=2)
    assert result.best is not None and result.best.path == (1, 0, 1)
    words = shown(result)
    assert "0.667" in words and "1.000" in words and "runner-up" not in words and "best other" in words
    assert "SUMMARY: 1 was kept beside a better one, and a continuation of it won." in words
    assert words.count("kept beside") == 1
    page = render(result.trace)
    assert "kept: 0.3333 below the best of its round, but a continuation of it won" in page
    assert "kept, but no continuation of it won" in page


def test_one_beam_chooses_the_best_of_each_round_and_nothing_needs_a_word() -> None:
    result = searched(beams=1)
    assert result.best is not None and result.best.path[0] == 0
    assert "kept beside" not in shown(result) and "continuation of it won" not in render(result.trace)


def test_the_demo_says_its_paths_in_one_piece(tmp_path: Path) -> None:
    place = io.StringIO()
    folder = tmp_path / "a long [bold]name"
    demo.run(folder, Console(file=place, width=40, highlight=False))
    for name in ("picture.png", "trace.json"):
        assert str(folder / name) in place.getvalue()
