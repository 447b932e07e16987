from __future__ import annotations

import structdecode as sd
from structdecode.core.settings import build
from structdecode.core.view import render

NASTY = "<script>alert('x')</script> & \"quotes\" </details>"


def test_everything_is_escaped_and_every_candidate_is_there() -> None:
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"{NASTY} {seed} {stage.end}", name=NASTY)
    strategy = build("strategies", "stage-beam", {"candidates": 3, "beams": 2})
    result = sd.decode(sd.Prompt(NASTY), backend=backend, strategy=strategy)
    page = render(result.trace)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 15
    assert page.count("<details") == page.count("</details>") == 15
    for event in result.trace.events:
        if event["kind"] == "candidate":
            assert f"path {'.'.join(map(str, event['path']))} " in page and str(event["seed"]) in page
    assert "the answer" in page and "pruned:" in page
    assert all(text not in page for text in ("http:", "https:", "src=", "@import"))


def test_why_something_was_pruned() -> None:
    def model(prompt: sd.Prompt, prefix: sd.Candidate, stage: sd.Stage, seed: int) -> str:
        return {0: "never closed", 1: f"long {stage.end}"}.get(seed % 3, f"x {stage.end}")

    strategy = build(
        "strategies", "stage-beam", {"candidates": 8, "verifier": build("verifiers", "rule", {"pattern": "x"})}
    )
    result = sd.decode(sd.Prompt("?"), backend=sd.ScriptedBackend(model), strategy=strategy)
    page = render(result.trace)
    assert "pruned: malformed" in page and "pruned: 1.0000 below the best" in page and "a tie, drawn later" in page
    spent = sd.decode(
        sd.Prompt("?"), backend=sd.ScriptedBackend(model), strategy=strategy, budget=sd.Budget(verifier_calls=3)
    )
    assert "Stopped by the budget: verifier_calls" in render(spent.trace)
