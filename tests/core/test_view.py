from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

import structdecode as sd
from structdecode.core.settings import build
from structdecode.core.trace import Trace
from structdecode.core.view import render
from structdecode.core.view.drawing import BOX_HEIGHT, BOX_WIDTH, MOST, ROW, TOP, Drawing
from structdecode.core.view.marking import Piece, differences, with_tokens
from structdecode.core.view.tree import SearchTree

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


def chain(length: int) -> list[dict[str, object]]:
    """Candidates that each go on from the one before."""
    plain = {"kind": "candidate", "stage": "A", "text": "a", "finish_reason": "stop", "tokens": 1, "log_prob": -1.0}
    return [{**plain, "path": [0] * depth} for depth in range(1, length + 1)]


def test_a_chain_longer_than_pythons_stack_is_listed_and_a_shorter_one_drawn_too() -> None:
    for length, drawn in ((1_200, 1_200), (MOST + 1, 0)):
        page = render(Trace({}, chain(length)))
        assert page.count("<details") == page.count("</details>") == length
        assert page.count("<rect") == page.count('<path class="cut"') == drawn


CROWDED = [[0, 0, at] for at in range(8)] + [[parent, at] for parent in (0, 1) for at in range(3)]
"""Two parents side by side whose children have not room enough before them, in a layer that is not the widest."""


@settings(max_examples=60)
@example(CROWDED, 0)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), max_size=40), st.integers(0, 5))
def test_in_a_drawing_no_boxes_touch_and_no_edges_cross(given: list[list[int]], best: int) -> None:
    paths = sorted({tuple(path[:end]) for path in given for end in range(1, len(path) + 1)}, key=lambda p: (len(p), p))
    events = [{**chain(1)[0], "path": list(path)} for path in paths]
    drawing = Drawing(SearchTree([*events, {"kind": "result", "ranking": [[best]]}]))
    columns: dict[float, list[float]] = {}
    for box in sorted(drawing.boxes, key=lambda box: box.node.path):  # the order of which no two edges cross
        assert 0 <= box.x <= drawing.width - BOX_WIDTH and TOP <= box.y <= drawing.height - BOX_HEIGHT
        columns.setdefault(box.x, []).append(box.y)
    assert len(drawing.boxes) == len(drawing.edges) == len(paths)
    assert [box.node.kept for box in drawing.boxes] == sorted(box.node.kept for box in drawing.boxes), "on top"
    for rows in columns.values():
        assert all(below - above >= ROW - 1e-6 for above, below in pairwise(rows))
    for edge, box in zip(drawing.edges, drawing.boxes, strict=True):
        assert edge.end == (box.x, box.y + BOX_HEIGHT / 2) and edge.kept == (box.node.path == (best,)) == box.node.kept


def test_a_beam_is_as_high_as_its_widest_round_and_the_way_to_the_answer_is_thick() -> None:
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"{seed % 100} {stage.end}")
    verifier = build("verifiers", "rule", {"pattern": "7"})
    strategy = build("strategies", "stage-beam", {"candidates": 16, "verifier": verifier})
    trace = sd.decode(sd.Prompt("?"), backend=backend, strategy=strategy).trace
    drawing, page = Drawing(SearchTree(trace.events)), render(trace)
    assert drawing.rows == 16 and [head for _, head in drawing.heads] == ["SUMMARY", "REASONING", "CONCLUSION"]
    assert page.count('<path class="kept"') == 3 and page.count('<path class="cut"') == 45
    assert page.count('<svg class="kept"') == 2 and page.count('<svg class="kept answer"') == 1
    assert all(f'href="#{name}"' in page for name in re.findall(r'<details [^>]*id="([^"]+)"', page))
    assert len(re.findall(r'<tspan class="score">[01]<', page)) == 48


def test_what_differs_from_the_chosen_one_is_marked() -> None:
    found = list(differences("There are three blue squares.", "There are two red squares, I think."))
    assert "".join(piece.text for piece in found) == "There are three blue squares."
    assert [(p.text, p.instead) for p in found if p.instead is not None] == [
        ("three blue ", "two red "), ("", ", I think"),
    ]  # fmt: skip
    assert list(differences("the same", "the same")) == [Piece("the same")]
    texts = {0: "There are two.", 1: "There are many."}
    events = [{**chain(1)[0], "path": [at], "text": text} for at, text in texts.items()]
    page = render(Trace({}, [*events, {"kind": "result", "ranking": [[0], [1]]}]))
    assert "<pre>There are two.</pre>" in page
    assert '<pre>There are <mark title="chosen: two">many</mark>.</pre>' in page


@given(st.text("ab .字\n", max_size=30), st.text("ab .字\n", max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_pieces_are_the_whole_text_cut_where_words_differ_and_tokens_end(
    text: str, chosen: str, cuts: list[int]
) -> None:
    pieces = list(differences(text, chosen))
    assert "".join(piece.text for piece in pieces) == text
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    tokens = [("<A>", -9.0), *((text[a:b], -float(at)) for at, (a, b) in enumerate(pairwise(bounds))), ("</A>", -9.0)]
    found = list(with_tokens(pieces, tokens))
    assert "".join(piece.text for piece in found) == text
    assert [(p.text, p.instead) for p in pieces if not p.text] == [(p.text, p.instead) for p in found if not p.text]
    letters = [piece.log_prob for piece in found for _ in piece.text]
    assert letters == [log_prob for token, log_prob in tokens[1:-1] for _ in token]


def test_a_tokens_probability_is_said_where_one_points_at_it_and_only_where_it_was_asked_for() -> None:
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"ab{stage.end}")
    asked = sd.decode(sd.Prompt("?"), backend=backend, trace_tokens=True).trace
    assert asked.events[0]["token_texts"] == list("ab</SUMMARY>")
    assert '<pre><span class="p2" title="probability 0.368">a</span>' in render(asked) and "Shaded" in render(asked)
    plain = sd.decode(sd.Prompt("?"), backend=backend).trace
    assert "token_texts" not in plain.events[0] and "<pre>ab</pre>" in render(plain) and "Shaded" not in render(plain)
    assert "log-prob -12.00 · mean token probability 0.37" in render(plain)
