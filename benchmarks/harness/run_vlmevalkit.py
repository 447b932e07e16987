"""Runs VLMEvalKit's own command on pocket pictures with stage beam, and holds its figures against the search without it.

In an environment with VLMEvalKit, from the repository's root: ``python -m benchmarks.harness.run_vlmevalkit``.
Writes ``vlmevalkit.md`` and ``vlmevalkit.json`` beside this file. No network is used.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.harness.common import directly, run, scenes, write, written
from structdecode.core.types import Prompt
from structdecode.integrations.vlmevalkit import content_id
from structdecode.pocket.world import Scene
from structdecode.verifiers.self_judge import SelfJudge

NAMES = ("one-by-one", "concurrent")
SEARCH = {"strategy": "stage-beam", "verifier": "self-judge", "candidates": 4, "seed": 0}


def row(index: int, scene: Scene) -> dict[str, Any]:
    """A row of a TSV as VLMEvalKit has them, the picture in base64."""
    stored = io.BytesIO()
    scene.render().save(stored, "PNG")
    image = base64.b64encode(stored.getvalue()).decode()
    return {"index": index, "image": image, "question": scene.question.text, "answer": scene.answer}


def predictions(folder: Path, name: str, output: str) -> pd.DataFrame:
    file = written(folder / "out", f"{name}_pocket_count.*", output)
    table = pd.read_excel(file) if file.suffix == ".xlsx" else pd.read_csv(file, sep="\t")
    return table.sort_values("index")


def main() -> None:
    drawn = scenes()
    models = {name: {"class": "StructDecode", **SEARCH, "concurrent": name == "concurrent"} for name in NAMES}
    data = {"pocket_count": {"class": "CustomVQADataset", "dataset": "pocket_count"}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = pd.DataFrame([row(i, scene) for i, scene in enumerate(drawn)])
        table.to_csv(folder / "pocket_count.tsv", sep="\t", index=False)
        (folder / "study.json").write_text(json.dumps({"model": models, "data": data}))
        command = ["-m", "structdecode.integrations.vlmevalkit", "--config", "study.json", "--mode", "infer"]
        output = run([*command, "--work-dir", "out", "--api-nproc", "8"], folder, LMUData=str(folder))
        found = {name: predictions(folder, name, output) for name in NAMES}
        pictures = sorted((folder / "images" / "pocket_count").iterdir(), key=lambda path: int(path.stem))
        prompts = [Prompt(s.question.text, [path]) for s, path in zip(drawn, pictures, strict=True)]
    expected = directly(prompts, [content_id(prompt, "pocket_count") for prompt in prompts], SelfJudge())
    rows = []
    for i, (scene, result) in enumerate(zip(drawn, expected, strict=True)):
        records = {name: ast.literal_eval(found[name]["extra_records"].iloc[i]) for name in NAMES}
        parts = records["one-by-one"]["usage_by_part"]
        rows.append(
            {
                "question": scene.question.text, "target": scene.answer,
                **{name: str(found[name]["prediction"].iloc[i]) for name in NAMES}, "decode": result.answer,
                "generator's tokens": parts["generator"]["generated_tokens"],
                "verifier's tokens": parts["verifier"]["generated_tokens"],
                "tokens of decode": result.usage.generated_tokens,
            }
        )  # fmt: skip
    facts = {
        "model in the config": json.dumps(models["one-by-one"]),
        "questions": len(rows),
        "right": sum(r["target"] == r["one-by-one"] for r in rows),
        "same answers as `decode`": sum(r["one-by-one"] == r["decode"] for r in rows),
        "same answers with `concurrent`": sum(r["one-by-one"] == r["concurrent"] for r in rows),
        "same tokens as `decode`": sum(
            r["generator's tokens"] + r["verifier's tokens"] == r["tokens of decode"] for r in rows
        ),
    }
    write("vlmevalkit", "VLMEvalKit with stage beam", ("vlmeval", "ms-vlmeval", "pandas"), facts, rows)
    if set(list(facts.values())[3:]) != {len(rows)}:
        raise SystemExit("the harness's figures are not those of the search")


if __name__ == "__main__":
    main()
