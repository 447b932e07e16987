"""Runs lmms-eval itself on pocket pictures with stage beam, and holds its figures against the search without it.

``make harness-lmms-eval`` makes an environment for it and runs it (``python -m benchmarks.harness.run_lmms_eval``).
Writes ``lmms-eval.md`` and ``lmms-eval.json`` beside this file. No network is used.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from benchmarks.harness.common import HERE, directly, run, scenes, write, written
from structdecode.core.types import Prompt
from structdecode.verifiers.log_prob import LogProb

SEARCH = {"pretrained": "pocket", "strategy": "stage-beam", "verifier": "log-prob", "candidates": 4, "seed": 0}


def evaluate(
    folder: Path, out: str, launcher: Sequence[str] = (), cache: str = "cache", **changes: Any
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, int]]:
    """One run of the harness: its results, its samples in order, and hits and misses of its response cache."""
    arguments = ",".join(f"{key}={value}" for key, value in {**SEARCH, **changes}.items())
    command = [
        "-m",
        *launcher,
        "lmms_eval",
        "--model",
        "structdecode",
        "--model_args",
        arguments,
        "--tasks",
        "pocket_count",
    ]
    command += ["--include_path", str(HERE / "pocket_count"), "--use_cache", cache, "--log_samples"]
    output = run([*command, "--output_path", out], folder)
    results = json.loads(written(folder / out, "*_results.json", output).read_text())
    lines = written(folder / out, "*_samples_pocket_count.jsonl", output).read_text().splitlines()
    samples = sorted((json.loads(line) for line in lines), key=lambda sample: int(sample["doc_id"]))
    found = re.search(r"ResponseCache stats: (\d+) hits.*?(\d+) misses", output)
    return results, samples, {"hits": int(found[1]), "misses": int(found[2])} if found else {}


def same(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> int:
    return sum(a["filtered_resps"] == b["filtered_resps"] for a, b in zip(some, others, strict=True))


def main() -> None:
    drawn = scenes()
    rows = [{"image": s.render(), "question": s.question.text, "answer": s.answer} for s in drawn]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(folder / "data" / "pocket_count")
        results, samples, first = evaluate(folder, "first")
        _, repeated, second = evaluate(folder, "second")
        _, _, other = evaluate(folder, "other", seed=1)
        _, parallel, _ = evaluate(
            folder, "parallel", ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m"), "own-cache"
        )
    prompts = [Prompt(row["question"], [row["image"]]) for row in rows]
    expected = directly(prompts, [f"pocket_count/{i}" for i in range(len(rows))], LogProb())
    table = []
    for row, sample, result in zip(rows, samples, expected, strict=True):
        counts = sample["token_counts"][0]
        table.append(
            {
                "question": row["question"], "target": row["answer"], "lmms-eval": sample["filtered_resps"][0],
                "decode": result.answer, "input tokens": counts["input_tokens"], "output tokens": counts["output_tokens"],
                "output tokens of decode": result.usage.generated_tokens,
            }
        )  # fmt: skip
    facts = {
        "model_args": ",".join(f"{key}={value}" for key, value in SEARCH.items()),
        "questions": len(rows),
        "exact_match": results["results"]["pocket_count"]["exact_match,none"],
        "same answers as `decode`": sum(row["lmms-eval"] == row["decode"] for row in table),
        "same output tokens as `decode`": sum(row["output tokens"] == row["output tokens of decode"] for row in table),
        "output tokens of all searches": sum(row["output tokens"] for row in table),
        "usage in the harness's results": results.get("usage", {}).get("total"),
        "response cache, first run": first,
        "response cache, same arguments again": second,
        "response cache, seed=1": other,
        "same answers from the cache": same(samples, repeated),
        "same answers from two processes (accelerate)": same(samples, parallel),
    }
    write("lmms-eval", "lmms-eval with stage beam", ("lmms_eval", "datasets"), facts, table)
    if not facts["same answers as `decode`"] == facts["same output tokens as `decode`"] == len(rows):
        raise SystemExit("the harness's figures are not those of the search")


if __name__ == "__main__":
    main()
