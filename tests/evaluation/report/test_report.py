from __future__ import annotations

import json
import math
import random
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import norm

from structdecode.core.errors import ConfigError
from structdecode.core.problems import Rejected
from structdecode.evaluation import taxonomy
from structdecode.evaluation.report import write
from structdecode.evaluation.report.disagreements import PER_PAIR
from structdecode.evaluation.report.results import Results
from structdecode.records.store import read_run
from tests.evaluation.report.runs import NOISE, Plan, Simulation, study_plans

NASTY = "<img src=x onerror=alert(1)> $x$ </script><b>|*_` --> &amp;"
VOID = {"meta", "link", "input", "img", "br"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole study at 60 questions, reported."""
    rejected = [Rejected("rows.jsonl", i, "broken json" if i % 3 else "no image", f"row {i}: fix it") for i in range(9)]
    directory = Simulation(tmp_path_factory.mktemp("whole"), study_plans(), 60, 60, rejected=rejected).write()
    write(directory)
    return directory


def tables(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "tables.json").read_text())
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_table_of_cells_is_what_the_records_say(whole: Path) -> None:
    """Every figure again, the plain way."""
    rows = {row["cell"]: row for row in tables(whole)["accuracy"]["cells"]}
    records: dict[str, dict[str, dict[str, Any]]] = {}
    for record in lines(whole / "records.jsonl"):
        records.setdefault(record["cell"], {})[record["id"]] = record
    assert list(rows) == [plan.name for plan in study_plans()]
    for name, row in rows.items():
        own = list(records[name].values())
        p = sum(r["correct"] for r in own) / 60
        assert row["accuracy"]["value"] == pytest.approx(p) and row["n"] == 60
        assert row["accuracy"]["error"] == pytest.approx(math.sqrt(p * (1 - p) / 59))
        assert row["accuracy"]["low"] <= p <= row["accuracy"]["high"]
        for part, before in (("generator", ""), ("verifier", "verifier_")):
            for count in ("generated", "prefilled", "cached"):
                expected = sum(r["usage"][part].get(f"{count}_tokens", 0) for r in own) / 60
                assert row[f"{before}{count}"]["value"] == pytest.approx(expected)
        assert row["flops"]["value"] == pytest.approx(sum(sum(r["flops"].values()) for r in own) / 60)
        for status in ("abstained", "refused"):
            assert row[status] == sum(r["status"] == status for r in own)
        gaps = [r["correct"] - records["staged"][r["id"]]["correct"] for r in own]
        if name == "staged":
            assert row["against_greedy"] is None
        else:
            assert row["against_greedy"]["value"] == pytest.approx(sum(gaps) / 60)


def test_all_pairs_are_tested_and_the_page_shows_the_first_of_them(whole: Path) -> None:
    rows, cells = tables(whole)["comparisons"]["pairs"], len(study_plans())
    assert len(rows) == cells * (cells - 1) // 2 == 1431
    text, markdown = (whole / "report.html").read_text(), (whole / "report.md").read_text()
    said = "The first 300 of 1431 rows; all of them are in tables.json, pairs."
    assert said in text and said in markdown and "Holm-corrected for the 1431 comparisons" in markdown
    table = text.split('<table id="table-pairs">')[1].split("</table>")[0]
    assert table.count("<tr>") == 301
    shown = markdown.split(" differences shown:")[1]
    for row in rows:
        if row["shown"]:
            first, second = (row["a"], row["b"]) if row["difference"]["value"] > 0 else (row["b"], row["a"])
            assert f"- {first} beats {second} by" in shown, "none that is shown is left out of the words"
    assert len(text.encode()) < 3_000_000


def test_the_front_is_not_beaten(whole: Path) -> None:
    rows = tables(whole)["accuracy"]["cells"]

    def cost(row: dict[str, Any]) -> float:
        names = ("generated", "verifier_generated", "prefilled", "verifier_prefilled")
        return sum(row[name]["value"] for name in names)

    for row in rows:
        beaten = any(
            cost(r) <= cost(row) and r["accuracy"]["value"] >= row["accuracy"]["value"]
            and (cost(r), r["accuracy"]["value"]) != (cost(row), row["accuracy"]["value"])
            for r in rows
        )  # fmt: skip
        assert row["on_front"] == (not beaten), row["cell"]


def test_generation_and_verification_are_told_apart(whole: Path) -> None:
    found = tables(whole)["coverage"]
    for row in found["coverage"]:
        assert row["covered"]["value"] >= row["chosen"]["value"] and row["covered"]["value"] >= row["blind"]["value"]
        assert row["gained"]["value"] == pytest.approx(row["chosen"]["value"] - row["blind"]["value"])
        assert row["selection_loss"]["value"] == pytest.approx(row["covered"]["value"] - row["chosen"]["value"])
        assert row["coverage_loss"]["value"] == pytest.approx(1 - row["covered"]["value"])
    by_k = {row["k"]: row["pass_at_k"]["value"] for row in found["pass_at"]}
    assert list(by_k) == [1, 2, 4, 8, 16] and list(by_k.values()) == sorted(by_k.values())
    widest = next(row for row in found["coverage"] if row["cell"] == "self-consistency/n=16")
    assert by_k[1] == pytest.approx(widest["blind"]["value"])


def test_a_verifiers_quality_is_the_simulated_one(whole: Path) -> None:
    """A right candidate's score is 1 higher, both with normal noise of s: AUC = Phi(1 / (s sqrt 2))."""
    rows = tables(whole)["verifiers"]["auc"]
    assert {row["stage"] for row in rows} == {"CAPTION", "REASONING", "CONCLUSION", "whole answer"}
    for row in rows:
        expected = norm.cdf(1 / (NOISE[row["verifier"]] * math.sqrt(2)))
        assert abs(row["auc"]["value"] - expected) < 4.5 * row["auc"]["error"], row


def test_candidates_that_cannot_be_told_are_no_wrong_ones(tmp_path: Path) -> None:
    """Without a reference for a stage, its candidates are neither right nor wrong, and there is no AUC."""
    run = Simulation(tmp_path, [Plan("stage-beam", "p-true", 4)], 12, 0).write()
    records = lines(run / "records.jsonl")
    for record in records:
        for found in record["rounds"]:
            if found["stage"] == "CAPTION":
                found["right"] = [right or None for right in found["right"]]
    (run / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write(run)
    assert [row["stage"] for row in tables(run)["verifiers"]["auc"]] == ["REASONING", "CONCLUSION"]


def test_failures_add_up_to_the_wrong_answers(whole: Path) -> None:
    found, run = tables(whole)["failures"], read_run(whole)
    for row in found["failures"]:
        assert row["wrong"] == sum(not r.correct for r in run.by_cell[row["cell"]])
        assert row["wrong"] == sum(row[str(kind)] for kind in taxonomy.Kind)
    badly = Counter[str]()
    for row in found["chosen_badly"]:
        badly[row["cell"]] += row["count"]
    assert badly == {row["cell"]: row["chosen badly"] for row in found["failures"] if row["chosen badly"]}


def test_equal_cost_is_a_mix_of_two_neighbours(whole: Path) -> None:
    found = tables(whole)
    accuracy = {row["cell"]: row["accuracy"]["value"] for row in found["accuracy"]["cells"]}
    rows = found["matched"]["matched_tokens"]
    assert {row["multiple"] for row in rows} == {2, 4, 8, 16}
    assert {row["family"] for row in rows} == {plan.family for plan in study_plans()}
    for row in rows:
        above = accuracy[row["above"]] if row["above"] else 0.0
        mixed = (1 - row["share"]) * accuracy[row["below"]] + row["share"] * above
        assert row["accuracy"]["value"] == pytest.approx(mixed) and row["spent"] <= row["budget"]
    for row in found["matched"]["matched_tokens_pairs"]:
        a, b = (next(r for r in rows if f"{r['family']} at {r['multiple']}x" == row[side]) for side in "ab")
        assert row["difference"]["value"] == pytest.approx(a["accuracy"]["value"] - b["accuracy"]["value"], abs=1e-8)
        assert row["a"].split(" at ")[1] == row["b"].split(" at ")[1] and row["p"] <= row["p_holm"]
    assert "best-of-n/p-true at 4x" in {row["a"] for row in found["matched"]["matched_tokens_pairs"]}


def test_the_same_records_give_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    """Another run of the same study: other seconds, another start, records written in another order."""
    again = Simulation(tmp_path / whole.name, study_plans(), 60, 60, rejected=read_run(whole).rejected).write()
    shuffled = (again / "records.jsonl").read_text().splitlines(keepends=True)
    random.Random(1).shuffle(shuffled)
    (again / "records.jsonl").write_text("".join(shuffled))
    write(again)
    names = ["tables.json", *(f"figures/{path.name}" for path in (whole / "figures").iterdir())]
    assert len(names) == 6
    for name in names:
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
    assert (again / "timings.json").read_bytes() != (whole / "timings.json").read_bytes()
    text = (whole / "tables.json").read_text()
    assert "seconds" not in text and "2026-01-01" not in text and "NaN" not in text
    same = [(p / "report.html").read_text().split('<section id="provenance">')[0] for p in (again, whole)]
    assert same[0] == same[1]


class Page(HTMLParser):
    """Tags that do not close, and addresses that would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.loaded: list[str] = []
        self.seen = Counter[str]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "xlink:href") or name.startswith("on"):
                self.loaded.append(f"{name}={(value or '')[:11]}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_nothing_is_loaded_and_everything_is_escaped(tmp_path: Path) -> None:
    plans = [Plan("staged", temperature=0.0, label=f"_{NASTY}"), *(Plan("best-of-n", NASTY, n) for n in (1, 4))]
    rejected = [Rejected(NASTY, 3, NASTY, NASTY)]
    write(Simulation(tmp_path, plans, 20, 20, text=NASTY, rejected=rejected).write())
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert not page.open and not page.wrong
    assert all(at.startswith(("href=#", "src=data:image", "href=data:,", "xlink:href=#")) for at in page.loaded), (
        page.loaded
    )
    assert page.seen["script"] == 2 and "<b>|" not in text and "onerror=alert(1)>" not in text
    assert all(f"{rule}" not in text for rule in ("@import", "url(http", "<iframe", "<object"))
    index = text.split('id="index">')[1].split("</script>")[0]
    assert NASTY in json.loads(index)["cells"][0] and "<" not in index and ">" not in index
    markdown = (tmp_path / "report.md").read_text()
    assert "<img" not in markdown and "<b>" not in markdown
    for row in (line for line in markdown.splitlines() if line.startswith("| \\_&lt;img")):
        assert row.replace("\\|", "").count("|") > 3
    for figure in (tmp_path / "figures").iterdir():
        assert "<img" not in figure.read_text()


def test_the_page_stays_small_with_long_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions of a thousand random characters, which pack badly: fewer examples, the same counts."""
    simulation = Simulation(tmp_path, study_plans((1, 16)), 40, 40)
    simulation.write()
    noise = random.Random(0)
    with (tmp_path / "traces.jsonl").open() as file:
        traces = [json.loads(line) for line in file]
    with (tmp_path / "traces.jsonl").open("w") as file:
        for line in traces:
            for event in line["trace"]["events"]:
                if event["kind"] == "candidate":
                    event["text"] += "".join(noise.choices("abcdefghijklmnopqrstuvwxyz .,\u00e9", k=1000))
            file.write(json.dumps(line) + "\n")
    write(tmp_path)
    assert 1_500_000 < (tmp_path / "report.html").stat().st_size < 4_000_000
    index = json.loads((tmp_path / "report.html").read_text().split('id="index">')[1].split("</script>")[0])
    best = {index["cells"].index(cell.name) for cell in Results(read_run(tmp_path)).best.values()}
    shown = [pair for key, pair in index["pairs"].items() if best.issuperset(map(int, key.split(",")))]
    assert len(shown) > 50 and all(len(pair["items"]) >= 1 for pair in shown)


def test_every_example_is_one_that_a_gets_and_b_loses(whole: Path) -> None:
    text = (whole / "report.html").read_text()
    index = json.loads(text.split('id="index">')[1].split("</script>")[0])
    results = Results(read_run(whole))
    correct, best = results.correct, {cell.name for cell in results.best.values()}
    ids = [line["id"] for line in lines(whole / "questions.jsonl")]
    assert len(index["pairs"]) > 100
    for key, pair in index["pairs"].items():
        a, b = (index["cells"][int(part)] for part in key.split(","))
        lost = [i for i in ids if correct[a][i] and not correct[b][i]]
        assert pair["total"] == len(lost)
        if {a, b} <= best:
            assert len(pair["items"]) == min(PER_PAIR, len(lost))
        for question, mine, other in pair["items"]:
            assert ids[int(question[1:])] in lost
            assert (
                f'<template id="{mine}"><p class="right">' in text
                and f'<template id="{other}"><p class="wrong">' in text
            )


def test_cells_that_are_not_finished_are_paired_on_what_they_share(tmp_path: Path) -> None:
    plans = [Plan("staged", temperature=0.0), Plan("best-of-n", "p-true", 4), Plan("direct")]
    write(Simulation(tmp_path, plans, 30, 0, skip={"direct": 18, "best-of-n/p-true/n=4": 30}).write())
    (pair,) = tables(tmp_path)["comparisons"]["pairs"]
    assert (pair["a"], pair["b"], pair["n"], pair["unpaired"]) == ("staged", "direct", 12, 18)
    markdown = (tmp_path / "report.md").read_text()
    assert "2 cells are not finished" in markdown and "direct: 12 of 30" in markdown and "n=4: 0 of 30" in markdown
    assert "Not all cells were asked the same questions" in markdown


@pytest.mark.parametrize(("accuracy", "words"), [(1.0, "No answer was wrong"), (0.0, "wrong caption")])
def test_all_right_and_all_wrong(tmp_path: Path, accuracy: float, words: str) -> None:
    plans = [Plan("staged", temperature=0.0), *(Plan("stage-beam", "p-true", n) for n in (1, 4))]
    simulation = Simulation(tmp_path, plans, 8, 8, accuracy=accuracy).write()
    records = [
        {**r, "status": "answered", "valid": True, "stopped_by": None, "correct": accuracy == 1}
        for r in lines(simulation / "records.jsonl")
    ]
    (simulation / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    write(simulation)
    markdown = (tmp_path / "report.md").read_text()
    assert (
        words in markdown
        and "No two cells disagree" in markdown
        and "No verifier scored a right and a wrong" in markdown
    )
    for row in tables(tmp_path)["accuracy"]["cells"]:
        assert row["accuracy"]["value"] == accuracy and row["accuracy"]["high"] - row["accuracy"]["low"] > 0.3


def test_one_cell_no_record_and_no_run(tmp_path: Path) -> None:
    one = Simulation(tmp_path / "one", [Plan("best-of-n", "p-true", 4)], 1, 1).write()
    assert write(one) == one / "report.html"
    assert "nothing to compare" in (one / "report.md").read_text()
    none = Simulation(tmp_path / "none", [Plan("direct")], 5, 0, skip={"direct": 5}).write()
    write(none)
    assert "No question is finished yet" in (none / "report.md").read_text()
    with pytest.raises(ConfigError, match="not a run directory"):
        write(tmp_path)


def test_what_was_left_out_is_counted_and_listed(whole: Path) -> None:
    assert tables(whole)["left-out"]["left_out"] == [
        {"problem": "broken json", "rows": 6},
        {"problem": "no image", "rows": 3},
    ]
    text = (whole / "report.html").read_text()
    assert "9 rows of the data were left out; 60 questions were read." in text
    assert all(f"rows.jsonl:{i}: row {i}: fix it" in text for i in range(9))
