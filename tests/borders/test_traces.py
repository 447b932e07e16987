"""Traces are data of strangers: what is no trace is said in one line, and a page of one runs nothing."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import structdecode as sd
from structdecode.core.errors import ConfigError, StructdecodeError
from structdecode.core.settings import build
from structdecode.core.trace import Trace
from structdecode.core.view import render
from structdecode.training.trees import read_trees
from tests.borders.commands import command, one_line

SCRIPT = "</summary></pre><img src=x onerror=alert(1)><script>document.title = 'ran'</script>'\""


@pytest.fixture(scope="module")
def trace() -> dict[str, Any]:
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"{seed} {stage.end}")
    strategy = build(
        "strategies", "stage-beam", {"candidates": 2, "verifier": build("verifiers", "rule", {"pattern": "1"})}
    )
    return sd.decode(sd.Prompt("?"), backend=backend, strategy=strategy, trace_tokens=True).trace.as_dict()


def changed(kind: str, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    def change(trace: dict[str, Any]) -> Any:
        next(e for e in trace["events"] if e["kind"] == kind).update(fields)
        return trace

    return change


def without(kind: str, field: str) -> Callable[[dict[str, Any]], Any]:
    def change(trace: dict[str, Any]) -> Any:
        del next(e for e in trace["events"] if e["kind"] == kind)[field]
        return trace

    return change


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "null": lambda trace: None, "list": lambda trace: [], "empty": lambda trace: {}, "number": lambda trace: 7,
    "no events": lambda trace: {"format": trace["format"]},
    "events a mapping": lambda trace: {**trace, "events": {}},
    "event null": lambda trace: {**trace, "events": [None]},
    "event without kind": lambda trace: {**trace, "events": [{}]},
    "kind a list": lambda trace: {**trace, "events": [{"kind": []}]},
    "another format": lambda trace: {**trace, "format": "other/1"},
    "question a list": lambda trace: {**trace, "question": ["?"]},
    "path a text": changed("candidate", path=SCRIPT), "path of texts": changed("candidate", path=[SCRIPT]),
    "path empty": changed("candidate", path=[]), "path of booleans": changed("candidate", path=[True]),
    "text a list": changed("candidate", text=[]), "stage a number": changed("candidate", stage=1),
    "tokens a text": changed("candidate", tokens=SCRIPT), "seed a text": changed("candidate", seed=SCRIPT),
    "log_prob a text": changed("candidate", log_prob=SCRIPT), "closed a text": changed("candidate", closed="no"),
    "values a number": changed("score", values=1), "values of texts": changed("score", values=[SCRIPT, SCRIPT]),
    "one value too few": changed("score", values=[1.0]), "one detail too few": changed("score", details=[{}]), "details null": changed("score", details=None), "reasons null": changed("score", reasons=None),
    "paths of numbers": changed("score", paths=[1, 2]), "no verifier": without("score", "verifier"),
    "ranking a text": changed("result", ranking="x"), "usage a list": changed("result", usage=[1]),
    "usage of texts": changed("result", usage={"generated_tokens": SCRIPT}),
    "token texts of numbers": changed("candidate", token_texts=[1], token_log_probs=[-1.0]),
    "token log-probs of texts": changed("candidate", token_texts=["a"], token_log_probs=[SCRIPT]),
    "one token too few": changed("candidate", token_texts=["a"], token_log_probs=[-1.0, -1.0]),
    "no path": without("candidate", "path"), "no text": without("candidate", "text"),
}  # fmt: skip
RAW = {
    "NaN": b'{"a": NaN}',
    "cut": b'{"format": "struct',
    "nothing": b"",
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 10_000,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_trace_is_said_in_one_line(case: str, trace: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(MALFORMED[case](copy.deepcopy(trace))))
    assert str(path) in one_line("view", path)
    assert not path.with_suffix(".html").exists()


WRONG = ["null", "[]", "{}", "1e400", '"x"', "-1", "true", "1" + "0" * 400, "[[]]", None]
"""JSON to put into each field; None takes the field away."""


def test_a_wrong_value_in_any_field_is_shown_or_refused_in_one_line(trace: dict[str, Any], tmp_path: Path) -> None:
    path, failure = tmp_path / "trace.json", {"kind": "failure", "verifier": "v", "error": "e"}
    extra = [failure, {"kind": "warning", "text": "w"}, {"kind": "view", "question": "?", "images": []}]
    kinds = {event["kind"]: event for event in reversed([*trace["events"], *extra])}
    whole = {**trace, "events": [*trace["events"], *extra]}
    first = {kind: whole["events"].index(event) for kind, event in kinds.items()}
    places = [(whole, key) for key in whole] + [(event, key) for event in kinds.values() for key in event]
    refused = 0
    for holder, key in places:
        for wrong in WRONG:
            value = {} if wrong is None else {key: "PUT"}
            changed = {k: v for k, v in holder.items() if k != key} | value
            if holder is not whole:
                events = list(whole["events"])
                events[first[holder["kind"]]] = changed
                changed = {**whole, "events": events}
            path.write_text(json.dumps(changed).replace('"PUT"', wrong or ""))
            for read in (lambda: render(Trace.load(path)), lambda: list(read_trees(path, Counter(), {}))):
                try:
                    read()
                except ConfigError as error:
                    refused += 1
                    assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 500
    assert refused > 400


@pytest.mark.parametrize("case", RAW)
def test_what_is_no_json_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(RAW[case])
    assert str(path) in one_line("view", path)
    with pytest.raises(StructdecodeError):
        Trace.load(path)


def hostile(trace: dict[str, Any]) -> dict[str, Any]:
    """Every text of a trace, keys and header included, is a script, a candidate's another than the chosen one's."""
    texts = ("text", "stage", "finish_reason", "verifier", "answer", "stopped_by", "lead")
    events = [
        {
            key: SCRIPT if key in texts else [SCRIPT] * len(value) if key in ("reasons", "token_texts") else value
            for key, value in event.items()
        }
        for event in trace["events"]
    ]
    for event in events[:-1]:
        if event["kind"] == "candidate":
            event["text"] = f"{SCRIPT} {event['path']}"
            event["token_texts"][0] = event["text"]
    events[-1] |= {"usage": {SCRIPT: 1}, "usage_by_part": {SCRIPT: {SCRIPT: 1}}}
    failure = {"kind": "failure", "verifier": SCRIPT, "error": SCRIPT}
    warning = {"kind": "warning", "text": SCRIPT}
    header = {key: SCRIPT if isinstance(value, str) and key != "format" else value for key, value in trace.items()}
    return {**header, SCRIPT: SCRIPT, "question": SCRIPT, "events": [failure, warning, {"kind": SCRIPT}, *events]}


def test_a_hostile_traces_page_holds_no_markup_of_its(trace: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(hostile(copy.deepcopy(trace))))
    page = render(Trace.load(path))
    assert "<script" not in page and "<img" not in page and page.count("&lt;script&gt;") > 20
    assert page.count("<mark ") > 2 and 'title="probability 0.368' in page
    assert "script-src" not in page and "default-src 'none'" in page


def test_a_picture_is_shown_if_it_is_the_one_that_was_asked_about(tmp_path: Path) -> None:
    path, red, blue = tmp_path / "trace.json", tmp_path / "red.png", tmp_path / "blue.png"
    for file in (red, blue):
        Image.new("RGB", (8, 8), file.stem).save(file)
    backend = sd.ScriptedBackend(lambda prompt, prefix, stage, seed: f"red {stage.end}")
    sd.decode(sd.Prompt("?", [red]), backend=backend).trace.save(path)
    assert command("view", path, "--image", red).code == 0
    page = path.with_suffix(".html").read_text()
    assert page.count("<img") == page.count('<img alt="the picture asked about" src="data:image/png;base64,') == 1
    assert f"{blue} is not the picture" in one_line("view", path, "--image", blue)
    assert "give the 1 it was made with" in one_line("view", path, "--image", red, "--image", red)
    assert "no such file" in one_line("view", path, "--image", tmp_path / "none.png")


def browsed(page: Path, folder: Path, *more: str, at: str = "") -> str:
    """The page's content once a browser has shown it."""
    switches = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        *more,
    ]
    seen = subprocess.run(
        ["chromium", *switches, f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"{page.as_uri()}{at}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return seen.stdout


needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")


@needs_browser
def test_a_browser_runs_nothing_of_it(trace: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(hostile(copy.deepcopy(trace))))
    assert command("view", path).code == 0
    seen = browsed(path.with_suffix(".html"), tmp_path)
    assert "Search tree" in seen and "<title>ran</title>" not in seen and "<img" not in seen


@needs_browser
def test_on_a_narrow_screen_the_drawing_scrolls_by_itself_and_a_box_leads_to_its_text(tmp_path: Path) -> None:
    backend = sd.ScriptedBackend(
        lambda prompt, prefix, stage, seed: f"{'long' * 99} {seed} {stage.end}", name="n" * 999
    )
    strategy = build("strategies", "best-of-n", {"n": 2, "verifier": build("verifiers", "rule", {"pattern": "1"})})
    trace = sd.decode(sd.Prompt("?" * 999), backend=backend, strategy=strategy).trace
    lost = "span-0" if trace.events[-1]["ranking"][0][0] else "span-1"
    probe = "<script>document.body.dataset.widths = document.documentElement.scrollWidth + ' ' + innerWidth</script>"
    page = tmp_path / "trace.html"
    page.write_text(
        render(trace).replace("default-src 'none'", "default-src 'unsafe-inline'").replace("</body>", f"{probe}</body>")
    )
    seen = browsed(page, tmp_path, "--window-size=500,900", at=f"#{lost}-0-0")
    found = re.search(r'data-widths="(\d+) (\d+)"', seen)
    assert found is not None and int(found[1]) <= int(found[2]) <= 500
    assert re.search(f'<details class="cut" id="{lost}-0" open', seen), "what it is folded in was opened"
