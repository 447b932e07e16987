"""The page in a real browser: what it shows once its script has run. Needs ``chromium`` (Debian's package)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from structdecode.evaluation.report import write
from tests.evaluation.report.runs import Plan, Simulation, study_plans

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")

A, B = "best-of-n/p-true/n=4", "staged"


def browse(page: Path, directory: Path, hash: str = "", script: str = "", width: int = 1200) -> tuple[str, list[str]]:
    """The DOM after the page's own script and a given one ran, and what was written to the console."""
    if script:
        copy = page.with_name("probed.html")
        content = re.sub(r"script-src [^\"]+", "script-src 'unsafe-inline'", page.read_text())  # or it would not run
        copy.write_text(content.replace("</body>", f"<script>{script}</script></body>"))
        page = copy
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory / 'profile'}",
            "--no-first-run", "--disable-extensions", "--enable-logging=stderr", f"--window-size={width},900",
            "--virtual-time-budget=8000", "--dump-dom", f"{page.as_uri()}{hash}",
        ],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plans = [plan for plan in study_plans((1, 4)) if plan.verifier != "self-judge"]
    return write(Simulation(tmp_path_factory.mktemp("run"), plans, 30, 30).write())


def pair(a: str, b: str, **more: str) -> str:
    return "#disagreements?" + urlencode({"a": a, "b": b, **more})


def articles(dom: str) -> list[str]:
    return re.findall(r"<article>.*?</article>", dom, re.DOTALL)


def test_all_sections_are_shown_and_the_console_is_silent(page: Path, tmp_path: Path) -> None:
    dom, console = browse(page, tmp_path)
    assert console == []
    assert re.search(r"<html[^>]*data-ready", dom)
    links = re.findall(r"<a href=\"#([a-z-]+)\"", dom)
    assert links == re.findall(r"<section id=\"([a-z-]+)\"", dom) and len(links) == 10
    assert dom.count("<figure>") == 5 and dom.count("<svg ") == 5
    assert 1 <= len(articles(dom)) <= 12  # a pair that disagrees is chosen before anyone asks


def test_the_hash_chooses_a_pair(page: Path, tmp_path: Path) -> None:
    dom, console = browse(page, tmp_path, pair(A, B))
    shown = articles(dom)
    total = re.search(rf"(\d+) questions that {re.escape(A)} gets and {B} loses; (\d+) shown here", dom)
    assert console == [] and total is not None
    assert len(shown) == int(total[2]) == min(12, int(total[1])) > 1
    for article in shown:
        mine, other = article.split("<h3>")[1:]
        assert mine.startswith(A) and 'class="right"' in mine and other.startswith(B) and 'class="wrong"' in other
        assert 'src="data:image/png;base64,' in article and "Reference:" in article
    swapped, _ = browse(page, tmp_path, pair(B, A))
    assert not {a.split("<h3>")[0] for a in articles(swapped)} & {a.split("<h3>")[0] for a in shown}


def test_words_filter_the_examples(page: Path, tmp_path: Path) -> None:
    dom, _ = browse(page, tmp_path, pair(A, B))
    first = re.search(r"true conclusion (\d+)", articles(dom)[0])
    assert first is not None
    few, _ = browse(page, tmp_path, pair(A, B, words=f"true conclusion {first[1]}"))
    assert 1 <= len(articles(few)) < len(articles(dom))
    none, _ = browse(page, tmp_path, pair(A, B, words="no such words anywhere"))
    assert articles(none) == [] and "; 0 shown here" in none


def test_search_trees_are_unpacked_when_opened(page: Path, tmp_path: Path) -> None:
    """Both trees of an example: 16 spans (4 samples of 4 stages) and 4, each ending in the answer."""
    closed, _ = browse(page, tmp_path, pair(A, B))
    assert 'class="kept"' not in closed
    dom, console = browse(page, tmp_path, pair(A, B, open="1"))
    assert console == []
    for article in articles(dom):
        assert article.count("the answer</span>") == 2 and article.count('<details class="kept"') == 8
        assert article.count("tokens · log-prob -1.25") == 16 + 4 and "p-true: " in article


def test_choosing_and_typing_work(page: Path, tmp_path: Path) -> None:
    """What a reader does by hand: another pair from the lists, swap, and words into a table's filter."""
    script = f"""
    {{
      const form = document.getElementById('browser');
      form.elements.a.value = {A!r}; form.elements.b.value = {B!r};
      form.elements.a.dispatchEvent(new Event('change'));
      document.body.dataset.chosen = document.getElementById('found').textContent;
      document.getElementById('swap').click();
      document.body.dataset.swapped = document.getElementById('found').textContent;
      document.body.dataset.hash = location.hash;
      const box = document.querySelector('#accuracy .filter');
      box.value = 'STAGE-beam'; box.dispatchEvent(new Event('input'));
      const rows = [...document.querySelectorAll('#table-cells tbody tr')];
      document.body.dataset.rows = rows.filter(row => row.offsetHeight > 0).map(row => row.cells[0].textContent).join(' ');
    }}
    """
    dom, console = browse(page, tmp_path, script=script)
    assert console == []
    assert f'data-chosen="{number(dom, "chosen")} questions that {A} gets and {B} loses' in dom
    assert f'data-swapped="{number(dom, "swapped")} questions that {B} gets and {A} loses' in dom
    assert f'data-hash="#disagreements?{urlencode({"a": B, "b": A}).replace("&", "&amp;")}"' in dom
    names = " ".join(f"stage-beam/{v}/n={n}" for v in ("p-true", "log-prob") for n in (1, 4))
    assert f'data-rows="{names}"' in dom


def number(dom: str, name: str) -> str:
    found = re.search(rf'data-{name}="(\d+)', dom)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("width", [500, 1200])
def test_the_page_is_no_wider_than_the_window(page: Path, tmp_path: Path, width: int) -> None:
    """Tables and figures scroll within themselves. 500 pixels are the least that headless Chromium takes."""
    script = "document.body.dataset.widths = document.documentElement.scrollWidth + ' ' + innerWidth"
    dom, _ = browse(page, tmp_path, pair(A, B, open="1"), script, width)
    found = re.search(r'data-widths="(\d+) (\d+)"', dom)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= width


def test_text_of_a_run_stays_text(tmp_path: Path) -> None:
    """Scripts and tags in names, questions and answers neither run nor close anything, unpacked trees included."""
    nasty = "</template></script><script>document.body.dataset.hacked = 1</script><img src=x onerror='document.body.dataset.hacked = 1'>"
    plans = [Plan("staged", temperature=0.0, label=f"A {nasty}"), Plan("best-of-n", nasty, 4)]
    run = Simulation(tmp_path / "run", plans, 20, 20, text=nasty).write()
    traces = (
        (run / "traces.jsonl").read_text().replace("true conclusion", "true <img src=x onerror=alert(1)> conclusion")
    )
    (run / "traces.jsonl").write_text(traces)
    dom, console = browse(write(run), tmp_path, pair(plans[1].name, plans[0].name, open="1"))
    assert "data-hacked" not in dom and console == [] and dom.count("<script") == 2
    assert articles(dom) and "true &lt;img src=x" in articles(dom)[0] and '<img src="x"' not in dom
