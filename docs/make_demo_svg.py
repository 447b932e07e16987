"""Draws docs/demo.svg, the README's picture: the demo's terminal, as rich exports it."""

import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from structdecode.cli import demo

console = Console(record=True, width=96, highlight=False)
demo.run(Path("runs/demo"), console)
local = re.sub(
    r"\s*@font-face {{.*?}}\n", "\n", CONSOLE_SVG_FORMAT, flags=re.DOTALL
)  # rich's loads a font from elsewhere
console.save_svg(str(Path(__file__).parent / "demo.svg"), title="make demo", code_format=local)
