"""What a result, a candidate and a trace look like in a notebook and as a table."""

from __future__ import annotations

import base64
import io
import math
import sys

import pytest
from PIL import Image

import structdecode as sd
from structdecode.core.errors import MissingExtraError
from structdecode.core.images import THUMBNAIL
from structdecode.core.settings import build

NASTY = "<script>alert('x')</script> & </details></div><img src=http://example.com>"
PICTURE = Image.new("RGB", (1000, 10), "red")


def searched(text: str = "five", **options: object) -> sd.Result:
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"{text} {seed % 5} {stage.end}", name=text)
    verifier = build("verifiers", "rule", {"pattern": "2"})
    strategy = build("strategies", "stage-beam", {"candidates": 6, "verifier": verifier})
    return sd.decode(sd.Prompt(f"{text}?", PICTURE), backend=backend, strategy=strategy, **options)  # type: ignore[arg-type]


def test_they_are_said_in_one_short_line() -> None:
    result = searched("many\n" * 100)
    for shown in (result, result.best, result.trace, sd.Candidate()):
        assert len(repr(shown)) < 200 and "\n" not in repr(shown)
    assert f"{len(result.candidates)} candidates" in repr(result) and "seed 0" in repr(result)
    assert "stopped by tokens" in repr(searched(budget=sd.Budget(tokens=3)))
    assert repr(sd.Candidate()) == "<Candidate root: 0 tokens, ''>"
    assert repr(result.best).startswith("<Candidate ")


def test_a_notebook_shows_the_picture_and_the_tree_and_nothing_of_a_strangers() -> None:
    result = searched(NASTY)
    assert result.best is not None
    shown = [value._repr_html_() for value in (result, result.best, result.trace)]
    for html in shown:
        assert type(html) is str, "no Markup, which escapes what one joins to it"
        assert "<script" not in html and "<img src=http" not in html and "&lt;script&gt;" in html
        assert html.count('<div class="structdecode">') == 1 and html.endswith("</div>")
        assert html.count("<details") == html.count("</details>") and html.count("<div") == html.count("</div>")
    assert all(html.count('<svg class="search-tree"') == (html is not shown[1]) for html in shown)
    assert shown[0].count("<details") == len([e for e in result.trace.events if e["kind"] == "candidate"])
    data = shown[0].split('src="data:image/png;base64,')[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (THUMBNAIL, 2)
    assert all(html.count("<img") == (1 if html is shown[0] else 0) for html in shown)


def test_a_row_for_each_candidate() -> None:
    result = searched()
    table = result.to_pandas()
    assert list(table) == ["path", "text", "answer", "score", "tokens", "log_prob", "finish_reasons", "draws"]
    assert len(table) == len(result.candidates) > 1 and table.draws.sum() == len(result.draws)
    first, ranked = table.iloc[0], result.candidates[0]
    assert first.path == ranked.candidate.path and first.text == ranked.candidate.text
    assert first.answer == result.answer and first.score == ranked.score.value
    assert first.tokens == sum(len(span.token_ids) for span in ranked.candidate.spans)
    assert first.log_prob == ranked.candidate.log_prob and first.finish_reasons == ("stop",) * 4
    assert math.isnan(searched(budget=sd.Budget(verifier_calls=0)).to_pandas().score.iloc[0])


def test_what_was_not_asked_has_no_rows() -> None:
    from structdecode.core.results import unasked

    nothing = unasked("?", "0", 0, "too long")
    assert len(nothing.to_pandas()) == 0 and "too long" in repr(nothing) and "(none)" in nothing._repr_html_()


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result = searched()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"structdecode\[eval\]"):
        result.to_pandas()
