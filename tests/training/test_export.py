from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import tags
from structdecode.core.engine import decode
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.types import Candidate, Prompt, Stage
from structdecode.data import load
from structdecode.matching.types import Question
from structdecode.records.store import read_run
from structdecode.training import export as exporting
from structdecode.training.export import Options, export
from tests.backends.transformers import tiny
from tests.evaluation.pocket_study import compare, run, small_study

REFERENCE = {"SUMMARY": "I count.", "CAPTION": "two squares.", "REASONING": "one, two.", "CONCLUSION": "2"}
PICTURES = [Image.new("RGB", (28, 28), (20 * i, 0, 0)) for i in range(12)]
QUESTIONS = [
    Question(f"q{i}", f"How many squares are there? {i}", ("2",), (picture,), kind="number", stages=REFERENCE)
    for i, picture in enumerate(PICTURES)
]


def writes(prompt: Prompt, prefix: Candidate, stage: Stage, seed: int) -> str:
    """A model whose caption is right or wrong by its seed, and whose answer follows from the caption."""
    text = {"SUMMARY": "I count.", "REASONING": "one, two."}.get(stage.name, "")
    if stage.name == "CAPTION":
        text = ("two squares.", "three squares.", "a dog.")[seed % 3]
    if stage.name == "CONCLUSION":
        text = "2" if prefix.stages.get("CAPTION") == "two squares." and seed % 3 else "3"
    if stage.name == "REASONING" and seed % 11 == 0:
        return "it goes on and on"  # the stage is never closed
    return f" {text} {stage.end}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run: best-of-n and stage beam over twelve questions."""
    out = tmp_path_factory.mktemp("export") / "run"
    study = small_study(["best-of-n", "stage-beam"], n=12, sweep=["n=8"])
    assert compare(study, out, ScriptedBackend(writes), QUESTIONS) == 0
    return out


def rows(source: Path, to: Any, out: Path, *args: Any, **options: Any) -> list[dict[str, Any]]:
    done = export(source, to, out, *args, **options)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert done.rows == len(found)
    return found


def node(directory: Path, row: dict[str, Any], path: str = "path") -> list[dict[str, Any]]:
    """The candidate events that a row is made of, looked up in the run by what the row says of its origin."""
    trace = read_run(directory).trace(row["origin"]["key"])
    assert trace is not None
    made = {tuple(event["path"]): event for event in trace["events"] if event["kind"] == "candidate"}
    place = tuple(row["origin"][path])
    return [made[place[:length]] for length in range(1, len(place) + 1)]


# ------------------------------------------------------------------ LLaVA-CoT


def test_best_answers_in_the_llava_cot_form(directory: Path, tmp_path: Path) -> None:
    found = rows(directory, "llava-cot", tmp_path / "train.jsonl", Options(only_correct=True, keep=4))
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        spans = tags.parse(LLAVA_O1, row["conversations"][1]["value"])
        assert [span.finish_reason for span in spans] == ["stop"] * 4 and spans[-1].text == "2"
        assert [span.text for span in spans] == [event["text"] for event in node(directory, row)]
    loaded = load(str(tmp_path / "train.jsonl"))
    assert not loaded.rejected and len(loaded.questions) == len(found)
    assert loaded.questions[0].text == QUESTIONS[0].text and loaded.questions[0].prompt().images
    said = [(row["image"], row["conversations"][1]["value"]) for row in found]
    assert len(set(said)) == len(said)  # two cells that wrote the same answer make one row
    anything = rows(directory, "llava-cot", tmp_path / "any.jsonl", Options(keep=100))
    assert len(anything) > len(found)
    assert any(not row["conversations"][1]["value"].endswith("<CONCLUSION> 2 </CONCLUSION>") for row in anything)


def test_without_a_right_answer_nothing_is_written(tmp_path: Path) -> None:
    wrong = [Question("q", "How many?", ("7",), (PICTURES[0],), kind="number")]
    compare(small_study(["staged"], n=1), tmp_path / "run", ScriptedBackend(writes), wrong)
    with pytest.raises(ConfigError, match=r"no row to write \(1 x no right answer\)"):
        export(tmp_path / "run", "llava-cot", tmp_path / "out.jsonl", Options(only_correct=True))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# ------------------------------------------------------------------ preference pairs


def test_pairs_are_siblings_apart_by_correctness(directory: Path, tmp_path: Path) -> None:
    found = rows(directory, "dpo", tmp_path / "pairs.jsonl", Options(keep=3))
    assert {row["stage"] for row in found} >= {"CAPTION", "CONCLUSION"}
    for row in found:
        chosen, rejected = node(directory, row, "chosen_path"), node(directory, row, "rejected_path")
        assert [e["text"] for e in chosen[:-1]] == [e["text"] for e in rejected[:-1]]
        assert chosen[-1]["text"] != rejected[-1]["text"] and chosen[-1]["stage"] == row["stage"]
        assert row["chosen"][0]["content"] == f"<{row['stage']}> {chosen[-1]['text']} </{row['stage']}>"
        assert 0 < row["margin"] <= 1 and row["by"] == "correctness"
        begun = row["prompt"][1]["content"] if len(row["prompt"]) > 1 else ""
        assert [s.text for s in tags.parse(LLAVA_O1, begun)][: len(chosen) - 1] == [e["text"] for e in chosen[:-1]]
    captions = [row["chosen"][0]["content"] for row in found if row["stage"] == "CAPTION"]
    assert captions and set(captions) == {"<CAPTION> two squares. </CAPTION>"}
    assert all(row["margin"] == 1 for row in found if row["stage"] == "CONCLUSION")


def test_margin_and_score(directory: Path, tmp_path: Path) -> None:
    wide = rows(directory, "dpo", tmp_path / "wide.jsonl", Options(keep=9, min_margin=1.0))
    narrow = rows(directory, "dpo", tmp_path / "narrow.jsonl", Options(keep=9))
    assert {row["margin"] for row in wide} == {1.0} and len(wide) < len(narrow)
    # every token of the scripted model has log-probability -1: no score is better than another
    with pytest.raises(ConfigError, match="no siblings that far apart"):
        export(directory, "dpo", tmp_path / "score.jsonl", Options(by="score"))


def test_scores_of_one_round_are_compared(tmp_path: Path) -> None:
    result = decode(Prompt("How many?"), backend=ScriptedBackend(writes), strategy="stage-beam")
    events = result.trace.events
    scored = next(e for e in events if e["kind"] == "score" and len(e["paths"][0]) == 2)  # REASONING
    made = {tuple(e["path"]): e for e in events if e["kind"] == "candidate"}
    for at, (path, value) in enumerate(zip(scored["paths"], (0.1, 0.9, 0.4, 0.2), strict=True)):
        scored["values"][at] = value
        made[tuple(path)] |= {"text": f"text {value}", "finish_reason": "stop"}
    made[tuple(scored["paths"][1])]["finish_reason"] = "length"  # cut short: may be rejected, never chosen
    result.trace.save(tmp_path / "trace.json")
    found = rows(tmp_path / "trace.json", "dpo", tmp_path / "out.jsonl", Options(keep=9))
    apart = [(r["chosen"][0]["content"], r["rejected"][0]["content"], round(r["margin"], 3)) for r in found]
    tagged = {value: f"<REASONING> text {value} </REASONING>" for value in (0.1, 0.2, 0.4)}
    assert apart == [
        (tagged[0.4], tagged[0.1], 0.3), (tagged[0.4], tagged[0.2], 0.2), (tagged[0.2], tagged[0.1], 0.1)
    ]  # fmt: skip


def test_trl_trains_on_rendered_pairs_token_for_token(directory: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    model, processor = tiny.build("llava")
    processor.save_pretrained(tmp_path / "processor")
    export(directory, "dpo", tmp_path / "pairs.jsonl", Options(keep=2), render=str(tmp_path / "processor"))
    pairs = exporting.read_rows([tmp_path / "pairs.jsonl"])
    batch = DataCollatorForVisionPreference(processor)([dict(pairs[i]) for i in range(4)])
    for i in range(4):
        for at, side in ((i, "chosen"), (4 + i, "rejected")):
            learned = batch["input_ids"][at][batch["completion_mask"][at].bool()].tolist()
            assert processor.tokenizer.decode(learned) == pairs[i][side]  # one stage, and no end of turn
        whole = processor.tokenizer.decode(batch["input_ids"][i][batch["attention_mask"][i].bool()])
        assert whole.replace("<image>", "").startswith(pairs[i]["prompt"].replace("<image>", ""))
    assert batch["pixel_values"].shape[0] == 8
    args = trl.DPOConfig(
        output_dir=str(tmp_path / "dpo"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False,
        report_to=[], save_strategy="no", gradient_checkpointing=False, max_length=None, disable_tqdm=True,
        logging_steps=1,
    )  # fmt: skip
    trainer = trl.DPOTrainer(model, tiny.build("llava")[0], args, train_dataset=pairs, processing_class=processor)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses == pytest.approx([0.6931], abs=1e-3)  # log 2: policy and reference are the same


def test_the_conversational_form_is_what_trl_takes_for_pairs(directory: Path, tmp_path: Path) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    found = rows(directory, "dpo", tmp_path / "pairs.jsonl")
    assert all(data_utils.is_conversational(row) for row in found)
    _, processor = tiny.build("llava")
    row = exporting.preference_text(found[0], processor)
    user = found[0]["prompt"][0]["content"]
    assert row["prompt"].startswith(f"<|bos|><|user|><image>{user}<|assistant|>")


# ------------------------------------------------------------------ step labels


def test_step_labels_are_monte_carlo_estimates(directory: Path, tmp_path: Path) -> None:
    found = rows(directory, "prm", tmp_path / "steps.jsonl")
    records = {record.key: record for record in read_run(directory).records}
    for row in found:
        record = records[row["origin"]["key"]]
        texts = [event["text"] for event in node(directory, row)]
        finals = [
            ([event["text"] for event in node(directory, {"origin": {"key": record.key, "path": p.path}})], p.correct)
            for p in record.pool
        ]
        for at, (label, value, rollouts) in enumerate(zip(row["labels"], row["values"], row["rollouts"], strict=True)):
            through = [right for stages, right in finals if stages[: at + 1] == texts[: at + 1]]
            assert rollouts >= len(through) > 0  # the pool is without the malformed ones of other branches
            if record.strategy == "best-of-n" and rollouts == len(through):
                assert value == sum(through) / len(through) and label == any(through)
    assert {True, False} == {label for row in found for label in row["labels"]}
    mixed = [row for row in found if row["labels"] != [row["labels"][-1]] * len(row["labels"])]
    assert mixed, "a good beginning before a wrong end"


def test_step_labels_by_reference(directory: Path, tmp_path: Path) -> None:
    found = rows(directory, "prm", tmp_path / "steps.jsonl", Options(labels="reference"))
    for row in found:
        texts = [event["text"] for event in node(directory, row)][: len(row["labels"])]
        same = [text == REFERENCE[stage] for text, stage in zip(texts, row["stages"], strict=True)]
        assert row["labels"] == [all(same[: at + 1]) for at in range(len(same))]
    assert any(row["labels"] == [True, False, False, False] for row in found)
    assert any(len(row["labels"]) < 4 for row in found)  # of beams that were dropped


def test_files_load_in_datasets_with_their_pictures(directory: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for form in ("dpo", "prm"):
        export(directory, form, tmp_path / f"{form}.jsonl")  # type: ignore[arg-type]
        row = exporting.read_rows([tmp_path / f"{form}.jsonl"])[0]
        assert row["images"][0].size == (28, 28) and row["origin"]["id"] == "q0"


# ------------------------------------------------------------------ trace files, mistakes, the command


@pytest.fixture
def trace(tmp_path: Path) -> tuple[Path, Path]:
    PICTURES[0].save(tmp_path / "red.png")
    prompt = Prompt("How many squares are there?", tmp_path / "red.png")
    result = decode(prompt, backend=ScriptedBackend(writes), strategy="best-of-n", seed=1)
    result.trace.save(tmp_path / "trace.json")
    return tmp_path / "trace.json", tmp_path / "red.png"


def test_the_command_exports_a_trace(trace: tuple[Path, Path], tmp_path: Path) -> None:
    path, picture = trace
    done = run("export", path, "--image", picture, "--answer", "2", "--to", "prm", "--out", tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert f"Wrote {len(found)} rows from 1 searches" in done.stdout
    assert found[0]["images"] == [str(picture)] and found[0]["origin"]["trace"] == str(path)
    done = run("export", path, "--to", "prm", "--out", tmp_path / "out.jsonl", code=2)
    assert "give the 1 it was made with, in order, by --image" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("csv", {}, "unknown form 'csv'"),
        ("prm", {"options": Options(only_correct=True)}, "leave --only-correct out"),
        ("prm", {"render": "x"}, "--render is for dpo"),
        ("prm", {}, "no reference answer to label steps by: give --answer"),
        ("llava-cot", {"options": Options(only_correct=True)}, "give --answer"),
        ("dpo", {"options": Options(by="correctness")}, "give --answer, or --by score"),
        ("llava-cot", {"images": "other"}, "is not the picture that this trace was made with"),
        ("llava-cot", {"schema": "cot"}, "schema 'cot' has no stage 'SUMMARY'"),
    ],
)
def test_mistakes(trace: tuple[Path, Path], tmp_path: Path, to: Any, options: dict[str, Any], message: str) -> None:
    path, picture = trace
    PICTURES[1].save(tmp_path / "other.png")
    options = {"images": [picture], **options}
    if options["images"] == "other":
        options["images"] = [tmp_path / "other.png"]
    (tmp_path / "out.jsonl").write_text("old\n")
    with pytest.raises(ConfigError, match=message):
        export(path, to, tmp_path / "out.jsonl", **options)
    assert (tmp_path / "out.jsonl").read_text() == "old\n"


def test_wrong_options() -> None:
    for wrong in ({"keep": 0}, {"min_margin": -1.0}, {"by": "luck"}, {"labels": "none"}):
        with pytest.raises(ConfigError):
            Options(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean 'score'"):
        Options(by="scores")  # type: ignore[arg-type]


def test_a_run_brings_its_own(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has its own pictures, answers and schemas"):
        export(directory, "prm", tmp_path / "out.jsonl", answers=["2"])


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"), exporting.whole_lines(tmp_path / "out.jsonl") as write:
        write({"a": 1})
        write({"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_difference_that_is_noise_makes_no_pair(tmp_path: Path) -> None:
    result = decode(Prompt("How many?"), backend=ScriptedBackend(writes), strategy="stage-beam")
    scored = next(e for e in result.trace.events if e["kind"] == "score" and len(e["paths"][0]) == 2)
    made = {tuple(e["path"]): e for e in result.trace.events if e["kind"] == "candidate"}
    scored["resolution"] = 1e-5
    for at, (path, value) in enumerate(zip(scored["paths"], (0.5, 0.5 + 1e-7, 0.5 - 1e-7, 0.9), strict=True)):
        scored["values"][at] = value
        made[tuple(path)] |= {"text": f"text {at}", "finish_reason": "stop"}
    result.trace.save(tmp_path / "trace.json")
    found = rows(tmp_path / "trace.json", "dpo", tmp_path / "out.jsonl", Options(keep=9))
    assert {row["chosen"][0]["content"] for row in found} == {"<REASONING> text 3 </REASONING>"} and len(found) == 3
