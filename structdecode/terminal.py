"""What a run looks like in a terminal: stages as they are decided, then the answer, the cost and the choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from structdecode.engine import Result
from structdecode.types import Candidate


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
        console.print(Text(f"verifier failed: {failure['verifier']}: {failure['error']}", style="yellow"))
    console.print(_cost(result))
    choices = _choices(result)
    if choices.row_count:
        console.print(choices)
    console.print(Text(settings, style="dim"))


def _cost(result: Result) -> Table:
    table = Table(title="What it cost", title_justify="left")
    columns = ("generated", "prefilled", "cached", "images encoded", "model calls", "verifier calls", "saved")
    fields = (
        "generated_tokens", "prefilled_tokens", "cached_tokens", "images_encoded", "model_calls", "verifier_calls",
        "verifier_calls_saved",
    )  # fmt: skip
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for part, usage in [*result.usage_by_part.items(), ("together", result.usage)]:
        table.add_row(part, *(f"{getattr(usage, name):,}" for name in fields))
    table.caption = f"{result.usage.seconds:.2f} s"
    return table


def _choices(result: Result) -> Table:
    """One line for each round of scores on the way to the best candidate."""
    table = Table(title="What the search chose", title_justify="left")
    for column in ("stage", "of", "chosen", "score", "runner-up"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    if result.best is None:
        return table
    for event in result.trace.events:
        if event["kind"] == "score":
            row = _round(event["paths"], event["values"], result.best)
            if row is not None:
                length = int(row[0])
                table.add_row(result.best.spans[length - 1].stage, *row[1:])
    return table


def _round(paths: Sequence[Sequence[int]], values: Sequence[float | None], best: Candidate) -> list[str] | None:
    on_way = next((i for i, p in enumerate(paths) if tuple(p) == best.path[: len(p)]), None)
    if on_way is None:
        return None
    others = [v for i, v in enumerate(values) if i != on_way and v is not None]
    score = values[on_way]
    return [
        str(len(paths[on_way])),
        str(len(paths)),
        ".".join(map(str, paths[on_way])),
        "-" if score is None else f"{score:.3f}",
        f"{max(others):.3f}" if others else "-",
    ]
