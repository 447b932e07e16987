"""Draws docs/demo.svg, the README's picture: the demo's terminal, as rich exports it."""

from pathlib import Path

from rich.console import Console

from structdecode.cli import demo

console = Console(record=True, width=96, highlight=False)
demo.run(Path("runs/demo"), console)
console.save_svg(str(Path(__file__).parent / "demo.svg"), title="make demo")
