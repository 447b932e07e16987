"""The site builds without a warning, and its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = {
    "script": ["src"], "img": ["src", "srcset"], "iframe": ["src"], "source": ["src", "srcset"], "video": ["src"],
    "audio": ["src"], "embed": ["src"], "object": ["data"], "image": ["href", "xlink:href"], "use": ["href", "xlink:href"],
}  # fmt: skip
LINKED = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "prefetch", "modulepreload", "manifest"}
FOREIGN = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)


class Foreign(HTMLParser):
    """Addresses of other hosts that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._inside = tag
        names = LOADED.get(tag, [])
        if tag == "link" and LINKED & set(given.get("rel", "").split()):
            names = ["href"]
        self.found += [given[name] for name in names if FOREIGN.match(given.get(name, ""))]
        self.found += in_style(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.found += in_style(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def in_style(css: str) -> list[str]:
    return re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", css)


def foreign(page: str) -> list[str]:
    parser = Foreign()
    parser.feed(page)
    return parser.found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", ROOT / "mkdocs.yml", "-d", place]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15 and (site / "search/search_index.json").exists()
    assert {str(page.relative_to(site)): found for page in pages if (found := foreign(page.read_text()))} == {}
    styles = [*site.rglob("*.css"), *site.rglob("*.svg")]
    assert styles and {path.name: found for path in styles if (found := in_style(path.read_text()))} == {}


def test_the_check_finds_what_it_looks_for() -> None:
    page = """<link rel=stylesheet href=https://a.example/x.css><script src="//b.example/x.js"></script>
    <style>@import 'https://c.example/x'; p { background: url(http://d.example/x) }</style><img src="https://e.example/x">
    <a href="https://fine.example">x</a><link rel="canonical" href="https://fine.example">"""
    assert [re.sub(r".*//(.).*", r"\1", found) for found in foreign(page)] == ["a", "b", "c", "d", "e"]


def test_every_name_of_the_package_is_in_the_reference(site: Path) -> None:
    import structdecode as sd

    reference = (site / "reference.html").read_text()
    missing = [name for name in sd.__all__ if name != "__version__" and f'id="structdecode.{name}"' not in reference]
    assert missing == []
