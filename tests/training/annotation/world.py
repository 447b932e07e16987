"""Records to annotate, and a scripted model that answers them with every fault that real ones have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.training.annotation.server import Answer, Asked


def staged(conclusion: str, *, caption: str = "A card with dots.", reasoning: str = "I count them.") -> str:
    return (
        f"<SUMMARY> I will look. </SUMMARY>\n<CAPTION> {caption} </CAPTION>\n\n"
        f"<REASONING> {reasoning} </REASONING>\n<CONCLUSION> {conclusion} </CONCLUSION>\n"
    )


def right(asked: Asked) -> Answer:
    """Four stages with the standard answer; a judge's yes."""
    return Answer("yes") if asked.judging else Answer(staged(standard(asked)))


def standard(asked: Asked) -> str:
    return asked.task.partition("Standard answer:\n")[2].partition("\n")[0].partition(" / ")[0]


def card(number: int) -> int:
    return number % 9 + 1


def question(number: int) -> str:
    return f"How many dots are on card {number}?"


def record(number: int, **fields: Any) -> dict[str, Any]:
    """A record of the LLaVA form; each ninth has two turns, each eighth an answer in words."""
    answer = "a red bicycle with a basket" if number % 10 == 8 else str(card(number))
    turns = [{"from": "human", "value": question(number)}, {"from": "gpt", "value": answer}]
    if number % 10 == 9:
        turns += [{"from": "human", "value": f"And on card {number} without one?"}]
        turns += [{"from": "gpt", "value": str(card(number) - 1)}]
    image = f"cards/{number}.png"
    return {"id": f"card-{number}", "image": image, "conversations": turns, **fields}


def write_records(folder: Path, records: Iterable[dict[str, Any]], name: str = "vqa.jsonl") -> Path:
    """The file, and a small picture for each record that names one."""
    path = folder / name
    lines = []
    for each in records:
        lines.append(json.dumps(each))
        image = each.get("image")
        if isinstance(image, str) and not (folder / image).exists():
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (len(lines) % 256, 7, 9)).save(folder / image)
    path.write_text("\n".join(lines) + "\n")
    return path


def faulty(asked: Asked) -> Answer:
    """What happens to a record depends on its number's last digit, on the attempt, and on the try."""
    if asked.judging:
        return Answer("yes" if "red" in asked.texts[-1] else "no", delay=0.01)
    number = int(re.findall(r"card (\d+)", asked.task)[-1])
    answer, kind = standard(asked), number % 10
    first = asked.attempt == 1
    if kind == 3 and asked.times < 2:
        return Answer(status=429, headers={"Retry-After": "0.02"})
    if kind == 4 and asked.times == 0:
        return Answer(status=500, headers={"Retry-After": "0.01"})
    if kind == 7 and asked.times == 0:
        return Answer(raw=b'{"choices": [{"mess', headers={"retry-after": "0.01"})
    if kind == 5:
        return Answer(None, refusal="I can't help with that.")
    if kind == 1 and first:
        return Answer(staged(answer).replace("<CAPTION>", "<PICTURE>"), delay=0.01)
    if kind == 2 and asked.attempt <= 2:
        return Answer(staged("77"), delay=0.01)
    if kind == 6 and first:
        return Answer(staged(answer)[:60], finish="length", delay=0.01)
    if kind == 8:
        return Answer(staged("the bike there, which is red"), delay=0.01)
    return Answer(staged(answer), delay=0.06 if kind == 0 else 0.015)


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def conclusions(records: Sequence[dict[str, Any]]) -> list[str]:
    """Of each record's last turn."""
    return [r["conversations"][-1]["value"].split("<CONCLUSION> ")[1].split(" </CONCLUSION>")[0] for r in records]
