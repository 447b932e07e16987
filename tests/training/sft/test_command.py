"""``structdecode train`` as it is typed: what it says, and what it refuses in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from structdecode.cli.main import app, main
from structdecode.training.sft.journal import read_journal
from tests.borders.commands import command, full_disk
from tests.training.sft import sets

runner = CliRunner()


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs a command that has to end with one line, and gives the line."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["structdecode", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert told[-1].startswith("structdecode: ")
        return told[-1]

    return run


def test_recipes_are_listed_and_help_has_examples() -> None:
    listed = runner.invoke(app, ["train", "--list"])
    assert listed.exit_code == 0 and "llava-o1-11b-fsdp: Full fine-tuning" in listed.stdout
    shown = runner.invoke(app, ["train", "--help"], env={"COLUMNS": "200"})
    assert "accelerate launch --num_processes 8" in shown.stdout and "Exit codes" in shown.stdout


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(tmp_path: Path, recipe_file: Any) -> None:
    out = tmp_path / "run"
    done = runner.invoke(app, ["train", "--recipe", str(recipe_file(method="lora")), "--dry-run", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "are trained" in done.stdout and "steps       8 on one process (4 an epoch" in done.stdout
    assert "examples 16, held out 4" in done.stdout and not out.exists()


def test_flags_go_before_the_recipe(tmp_path: Path, recipe_file: Any) -> None:
    words = ["train", "--recipe", str(recipe_file()), "--held-out", "0.5", "--set", "epochs=1", "--set", "held_out=2"]
    done = runner.invoke(app, [*words, "--max-steps", "1", "--dry-run", "--out", str(tmp_path / "run")])
    assert "examples 10, held out 10" in done.stdout and "steps       1 on" in done.stdout


def test_mistakes_are_told_in_one_line(tmp_path: Path, recipe_file: Any, refused: Refused) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert "unknown recipe 'pokket'" in refused("train", "--recipe", "pokket", *out)
    assert "names no data" in refused("train", "--recipe", str(recipe_file(data=None)), *out)
    path = str(recipe_file())
    assert "no such directory" in refused("train", "--recipe", path, "--model", str(tmp_path / "nothing"), *out)
    assert "--threads must be at least 1" in refused("train", "--recipe", path, "--threads", "0", *out)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"id": 1, "conversations": []}) + "\n")
    assert "structdecode data check" in refused("train", "--recipe", path, "--data", str(bad), *out)
    assert "Using fsdp only works in distributed" in refused("train", "--recipe", path, "--set", "fsdp=true", *out)


@pytest.mark.parametrize("command", ["train", "train-verifier"])
@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("held-out", "nan", "a finite number, not nan"),
        ("held-out", "-3", "above 0, not -3.0"),
        ("held-out", "inf", "a finite number, not inf"),
        ("seed", "-1", "at least 0, not -1"),
        ("seed", str(2**32), "at most 4294967295"),
        ("lr", "nan", "a finite number, not nan"),
        ("epochs", "inf", "a finite number, not inf"),
        ("warmup", "-0.1", "at least 0, not -0.1"),
        ("lora-dropout", "1", "below 1, not 1.0"),
    ],
)
def test_numbers_out_of_range(
    tmp_path: Path, refused: Refused, command: str, option: str, value: str, wanted: str
) -> None:
    words = [command, "--out", str(tmp_path / "run"), f"--{option}", value]
    if option not in ("held-out", "seed"):
        words[3:] = ["--set", f"{option.replace('-', '_')}={value}"]
    if command == "train-verifier":
        words += [str(tmp_path / "rows.jsonl"), "--model", "pocket"]
    assert f"{option.replace('-', '_')} must be {wanted}" in refused(*words)
    assert not (tmp_path / "run").exists()


def test_rows_that_cannot_be_used_are_counted_and_too_many_end_the_run(
    tmp_path: Path, recipe_file: Any, refused: Refused, caplog: pytest.LogCaptureFixture
) -> None:
    data = sets.write_set(tmp_path / "set", 24, text_only=6)
    (tmp_path / "empty").mkdir()
    path, out = str(recipe_file(data=str(data), epochs=1, accuracy_questions=0)), tmp_path / "run"
    told = refused("train", "--recipe", path, "--images", str(tmp_path / "empty"), "--out", str(out))
    assert "18 of 24 rows (18 image-missing) cannot be used, more than max_left_out (1 %); the first, line 1: " in told
    assert not (out / "journal.jsonl").exists()

    lines = data.read_text().splitlines()
    lines[20] = lines[20].replace("</SUMMARY>", "<|image|></SUMMARY>")
    lines[2] = "{"
    (tmp_path / "set" / "images" / "5.png").write_bytes(b"\x89PNG")
    data.write_text("\n".join(lines) + "\n")
    words = ["train", "--recipe", path, "--out", str(out), "--quiet", "--set", "batch_size=1", "--set", "log_every=1"]
    assert "3 of 24 rows" in refused(*words)
    done = runner.invoke(app, [*words, "--set", "max_left_out=0.2"])
    assert done.exit_code == 0, done.output
    counted = "3 of 24 rows (1 bad-json, 1 not-an-image, 1 image-token-in-text)"
    assert f"| left out | {counted} |" in (out / "model" / "README.md").read_text()
    journal = read_journal(out / "journal.jsonl")
    assert journal[0]["step"] == 0 and journal[0]["data"]["left out"] == counted
    assert len([row for row in journal if "loss" in row]) == journal[0]["data"]["examples"] == 17
    assert f"left out: {counted}" in caplog.text


def test_rows_left_out_of_the_held_out_file_are_counted(tmp_path: Path, recipe_file: Any, data: Path) -> None:
    held_out = tmp_path / "held.jsonl"
    held_out.write_text("\n".join([*data.read_text().splitlines()[:4], "{\n"]))
    given = {"held_out": str(held_out), "images": str(data.parent), "max_left_out": 0.5}
    path = recipe_file(**given, accuracy_questions=0, epochs=1)
    done = runner.invoke(app, ["train", "--recipe", str(path), "--out", str(tmp_path / "run"), "--quiet"])
    assert done.exit_code == 0, done.output
    facts = read_journal(tmp_path / "run" / "journal.jsonl")[0]["data"]
    assert facts["left out of held out"] == "1 of 5 rows (1 bad-json)" and facts["held out"] == 4


def test_adapters_are_merged_where_nothing_is_yet(tmp_path: Path, recipe_file: Any, refused: Refused) -> None:
    run = tmp_path / "run"
    words = ["train", "--recipe", str(recipe_file(method="lora", epochs=1)), "--out", str(run), "--quiet"]
    assert runner.invoke(app, words).exit_code == 0
    done = runner.invoke(app, ["merge-adapters", str(run / "adapter"), "--out", str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    merged, trained = (place / "model.safetensors" for place in (tmp_path / "merged", run / "model"))
    assert merged.read_bytes() == trained.read_bytes()
    again = refused("merge-adapters", str(run / "adapter"), "--out", str(tmp_path / "merged"))
    assert "is there already" in again


def test_the_tiny_set_is_a_good_one(tmp_path: Path) -> None:
    path = sets.write_set(tmp_path / "set", 6)
    assert runner.invoke(app, ["data", "check", str(path)]).exit_code == 0


@pytest.mark.parametrize("room", [100, 20_000])  # the journal; the weights
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path: Path, recipe_file: Any, room: int) -> None:
    words = ["train", "--recipe", recipe_file(), "--max-steps", "1", "--out", tmp_path / "run"]
    with full_disk(room):
        done = command(*words)
    told = done.err.strip().splitlines()[-1]
    assert done.code == 2 and told.startswith("structdecode: ") and "File too large" in told
    assert command(*words).code == 0 and (tmp_path / "run" / "model").is_dir()
