"""What a run looks like in a terminal: stages as they are decided, then the answer, the cost and the choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from structdecode.core.results import Result
from structdecode.core.types import Candidate, Path


class LiveStages:
    """An observer of a search's events that shows each stage with its best candidate so far.

    Use as a context manager; on anything but a terminal it prints a line a stage instead.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stages: dict[str, list[dict[str, Any]]] = {}
        self.chosen: dict[str, tuple[str, float | None]] = {}
        self.failures: list[str] = []
        self._live = Live(console=console, refresh_per_second=12, transient=True) if console.is_terminal else None

    def __enter__(self) -> LiveStages:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["kind"] == "candidate":
            self.stages.setdefault(event["stage"], []).append(dict(event))
            if event["stage"] not in self.chosen:
                self.chosen[event["stage"]] = (event["text"], None)
        elif event["kind"] == "score":
            self._choose(event)
        elif event["kind"] == "failure":
            self.failures.append(f"{event['verifier']}: {event['error']}")
        if self._live is not None:
            self._live.update(self.render(), refresh=True)

    def _choose(self, event: Mapping[str, Any]) -> None:
        scored = [(v, tuple(p)) for v, p in zip(event["values"], event["paths"], strict=True) if v is not None]
        if not scored:
            return
        value, path = max(scored, key=lambda pair: pair[0])
        for stage, candidates in self.stages.items():
            found = next((c for c in candidates if tuple(c["path"]) == path), None)
            if found is not None:
                self.chosen[stage] = (found["text"], value)

    def render(self) -> Group:
        return Group(*(self._panel(stage) for stage in self.stages))

    def _panel(self, stage: str) -> Panel:
        text, value = self.chosen[stage]
        count = len(self.stages[stage])
        note = f"{count} candidate{'s' if count > 1 else ''}" + (f" · best {value:.3f}" if value is not None else "")
        return Panel(Text(text or "(empty)"), title=f"[bold]{escape(stage)}[/]", subtitle=note, title_align="left")


def show_result(console: Console, result: Result, settings: str, show_stages: bool) -> None:
    """The answer, then what it cost and what the search chose."""
    if show_stages and result.best is not None:
        for stage, text in result.stages.items():
            console.print(Panel(Text(text or "(empty)"), title=f"[bold]{escape(stage)}[/]", title_align="left"))
    console.print(Text("Answer: ", style="bold green") + Text(result.answer or "(none)"))
    for failure in result.trace.failures:
        console.print(
            Text(f"verifier failed: {failure['verifier']}: {failure['error']}", style="yellow"), soft_wrap=True
        )
    for warning in result.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    console.print(_cost(result))
    choices = _choices(result)
    if choices.row_count:
        console.print(choices)
    console.print(Text(settings, style="dim"), soft_wrap=True)


def _cost(result: Result) -> Table:
    table = Table(title="What it cost", title_justify="left")
    columns = ("generated", "prefilled", "cached", "images encoded", "model calls", "verifier calls", "saved")
    fields = (
        "generated_tokens", "prefilled_tokens", "cached_tokens", "images_encoded", "model_calls", "verifier_calls",
        "verifier_calls_saved",
    )  # fmt: skip
    outside = {"dollars": "US dollars", "api_calls": "API calls", "flops": "verifier's FLOPs"}
    spent = [name for name in outside if name in result.usage.outside]
    table.add_column("")
    for column in (*columns, *(outside[name] for name in spent)):
        table.add_column(column, justify="right")
    for part, usage in [*result.usage_by_part.items(), ("together", result.usage)]:
        table.add_row(
            part, *(f"{getattr(usage, name):,}" for name in fields), *(f"{getattr(usage, n):,.4g}" for n in spent)
        )
    table.caption = f"{result.usage.seconds:.2f} s"
    return table


def _choices(result: Result) -> Table:
    """One line for each round of scores on the way to the best candidate.

    With several beams the one on that way need not have been the best of its round: it was kept beside the best, and a
    continuation of it won. The caption says where.
    """
    table = Table(title="What the search chose", title_justify="left", caption_justify="left")
    for column in ("stage", "of", "on the way", "score", "best other"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    if result.best is None:
        return table
    behind = []
    for event in result.trace.events:
        found = _round(event, result.best) if event["kind"] == "score" else None
        if found is None:
            continue
        stage = result.best.spans[len(found.path) - 1].stage
        path = ".".join(map(str, found.path))
        table.add_row(stage, str(found.size), path, _score(found.score), _score(found.best_other))
        if len(found.path) < len(result.best.path) and found.is_behind:
            behind.append(f"{stage}: {path} was kept beside a better one, and a continuation of it won.")
    if behind:
        table.caption = "\n".join(behind)
    return table


@dataclass(frozen=True)
class _Round:
    """One round of scores: the candidate of it on the way to the answer, and the best of the others."""

    path: Path
    size: int
    score: float | None
    best_other: float | None

    @property
    def is_behind(self) -> bool:
        return self.score is not None and self.best_other is not None and self.score < self.best_other


def _round(event: Mapping[str, Any], best: Candidate) -> _Round | None:
    paths, values = [tuple(path) for path in event["paths"]], event["values"]
    on_way = next((i for i, path in enumerate(paths) if path == best.path[: len(path)]), None)
    if on_way is None:
        return None
    others = [v for i, v in enumerate(values) if i != on_way and v is not None]
    return _Round(paths[on_way], len(paths), values[on_way], max(others, default=None))


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
