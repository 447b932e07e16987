"""Damaged rows from the file to the report: the run goes on without them, and says how many and which."""

from __future__ import annotations

from pathlib import Path

import pytest

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.errors import ConfigError
from structdecode.core.jsonl import lines
from structdecode.data import files, load
from structdecode.evaluation.commands import run_study
from structdecode.evaluation.study import DataSource, from_options
from structdecode.matching import match
from structdecode.records.store import read_run
from tests.data import malformed


def test_a_study_of_damaged_files_counts_what_was_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", malformed.MAX_LINE)
    backend, counted = ScriptedBackend(lambda *_: "2"), 0
    for number, file in enumerate(malformed.write_all(tmp_path / "data", 1000)):
        loaded, out = load(file.path), tmp_path / f"run-{number}"
        study = from_options(DataSource(str(file.path)), ["direct"])
        assert run_study(study, loaded.questions, loaded.rejected, backend, match, out, quiet=True) == 0
        run = read_run(out)
        assert {record.id for record in run.records} == {identity for _, identity in file.good}
        assert [(row.line, row.problem) for row in run.rejected] == file.problems
        report = (out / "report.md").read_text()
        assert f"{len(file.problems)} rows of the data were left out; {len(file.good)} questions were read." in report
        counted += len(run.rejected)
    assert counted == 1000


def test_a_study_that_has_no_row_left_names_the_file_that_lists_them(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("question,answer\nWhich?,\n,red\n")
    loaded, out = load(tmp_path / "data.csv"), tmp_path / "run"
    study, backend = from_options(DataSource("data.csv"), ["direct"]), ScriptedBackend(lambda *_: "2")
    with pytest.raises(ConfigError) as caught:
        run_study(study, loaded.questions, loaded.rejected, backend, match, out, quiet=True)
    said = str(caught.value)
    assert f"2 rows were left out, listed in {out / 'rejected.jsonl'}; the first: " in said and "\n" not in said
    assert [line["problem"] for line in lines(out / "rejected.jsonl")] == ["missing-field", "empty-field"]
    (tmp_path / "data.csv").write_text("question,answer\nWhich?,2\n,red\n")
    mended = load(tmp_path / "data.csv")  # the same command resumes, in the same folder
    assert run_study(study, mended.questions, mended.rejected, backend, match, out, quiet=True) == 0
    with pytest.raises(ConfigError, match=r"2 rows were left out; the first: "):
        run_study(study, loaded.questions, loaded.rejected, backend, match, out, quiet=True)
    assert len(read_run(out).rejected) == 1  # a run that is there keeps its own
