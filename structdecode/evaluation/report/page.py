"""The one self-contained page: nothing is loaded from anywhere, everything of the run in it is escaped, and the browser
runs no script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from structdecode.core.view import TREE_STYLE
from structdecode.evaluation.report.section import Section

STYLE = """
:root { --ink: #1d2125; --paper: #fefefd; --soft: #f3f4f2; --good: #1f8a4c; --bad: #b8462f; --link: #2463b4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --paper: #16191c; --soft: #1f2428; --good: #5fc98b; --bad: #ef8f78; --link: #8ab8f2; } }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 76rem;
  padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: .6rem 0; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
a { color: var(--link); } p, li { max-width: 52rem; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: .5rem 0; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; margin: .6rem 0 1.2rem; max-height: 42rem; overflow-y: auto; }
figure { margin: 1rem 0; } figure .wide { max-height: none; } figcaption { font-size: .9em; opacity: .8; max-width: 52rem; }
figure svg { display: block; width: 100%; min-width: 640px; height: auto; max-width: 940px; }
table { width: max-content; border-collapse: separate; border-spacing: 0; font-size: 13.5px; font-variant-numeric: tabular-nums; }
td, th { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { position: sticky; top: 0; background: var(--soft); z-index: 1; font-weight: 600; vertical-align: bottom; }
th:not(.text) { white-space: normal; max-width: 6rem; }
td.text, th.text { text-align: left; }
td.text { max-width: 26rem; white-space: normal; overflow-wrap: anywhere; }
td:first-child { position: sticky; left: 0; background: var(--paper); } th:first-child { left: 0; z-index: 2; }
tbody tr:hover td { background: var(--soft); }
input, select, button { font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line); border-radius: 4px;
  padding: .2rem .5rem; max-width: 100%; }
.filter { margin-top: .6rem; width: 18rem; }
#browser { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; } #browser label { max-width: 100%; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; margin: .8rem 0; }
article img { float: left; width: 128px; image-rendering: pixelated; margin: 0 1rem .5rem 0; border-radius: 4px; }
article .asked { overflow: hidden; min-width: 12rem; }
.sides { clear: both; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.2rem; }
.sides > div { min-width: 0; overflow-wrap: anywhere; } .sides h3 { font-size: .95rem; margin: .4rem 0; overflow-wrap: anywhere; }
dl { margin: .4rem 0; } dt { font-size: .75rem; opacity: .75; letter-spacing: .04em; } dd { margin: 0 0 .35rem; }
.right { color: var(--good); } .wrong { color: var(--bad); }
pre { font-size: 12.5px; overflow-x: auto; }
@media (max-width: 600px) { body { padding: .6rem .7rem 3rem; font-size: 14px; } td { padding: .2rem .4rem; }
  td.text { max-width: 22rem; } td.text:first-child { max-width: 8.5rem; } article img { width: 96px; } .filter { width: 100%; } }
@media print { .wide { max-height: none; overflow: visible; } }
"""

SCRIPT = """
'use strict';
for (const box of document.querySelectorAll('.filter')) {
  const rows = box.nextElementSibling.querySelectorAll('tbody tr');
  box.addEventListener('input', () => {
    const wanted = box.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
const form = document.getElementById('browser');
if (form) {
  const index = JSON.parse(document.getElementById('index').textContent);
  const place = document.getElementById('examples'), found = document.getElementById('found');
  const a = form.elements.a, b = form.elements.b, words = document.getElementById('words');
  const most = Object.entries(index.pairs).sort((x, y) => y[1].items.length - x[1].items.length || y[1].total - x[1].total)[0][0];
  const copy = id => document.getElementById(id).content.cloneNode(true);
  const element = (name, text) => Object.assign(document.createElement(name), {textContent: text || ''});

  function side(cell, id) {
    const column = element('div');
    column.append(element('h3', index.cells[cell]), copy(id));
    const tree = column.querySelector('details.tree');
    if (tree) tree.addEventListener('toggle', () => unpack(tree), {once: true});
    return column;
  }
  async function unpack(tree) {
    const body = tree.appendChild(element('div', 'unpacking …'));
    if (typeof DecompressionStream === 'undefined') { body.textContent = 'This browser is too old to unpack it.'; return; }
    const bytes = Uint8Array.from(atob(tree.dataset.tree), c => c.charCodeAt(0));
    body.innerHTML = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'))).text();
  }
  function show() {
    const pair = index.pairs[a.selectedIndex + ',' + b.selectedIndex] || {total: 0, items: []};
    const wanted = words.value.toLowerCase();
    place.replaceChildren();
    for (const [question, mine, other] of pair.items) {
      const article = element('article'), sides = element('div');
      sides.className = 'sides';
      sides.append(side(a.selectedIndex, mine), side(b.selectedIndex, other));
      article.append(copy(question), sides);
      if (article.textContent.toLowerCase().includes(wanted)) place.append(article);
    }
    found.textContent = pair.total + ' questions that ' + index.cells[a.selectedIndex] + ' gets and ' +
      index.cells[b.selectedIndex] + ' loses; ' + place.children.length + ' shown here.';
  }
  function choose(first, second) { a.selectedIndex = first; b.selectedIndex = second; show(); }
  function follow() {
    const at = location.hash.indexOf('?');
    const asked = new URLSearchParams(at < 0 || !location.hash.startsWith('#disagreements') ? '' : location.hash.slice(at));
    const first = index.cells.indexOf(asked.get('a')), second = index.cells.indexOf(asked.get('b'));
    words.value = asked.get('words') || words.value;
    if (first >= 0 && second >= 0) choose(first, second);
    else if (a.dataset.ready === undefined) choose(...most.split(',').map(Number));
    a.dataset.ready = '';
    if (asked.has('open')) for (const tree of place.querySelectorAll('details.tree')) tree.open = true;
    if (at >= 0) document.getElementById('disagreements').scrollIntoView();
  }
  function changed() {
    const pair = new URLSearchParams({a: a.value, b: b.value});
    if (words.value) pair.set('words', words.value);
    history.replaceState(null, '', '#disagreements?' + pair);
    show();
  }
  a.addEventListener('change', changed);
  b.addEventListener('change', changed);
  words.addEventListener('input', changed);
  form.addEventListener('submit', event => event.preventDefault());
  document.getElementById('swap').addEventListener('click', () => { choose(b.selectedIndex, a.selectedIndex); changed(); });
  window.addEventListener('hashchange', follow);
  follow();
}
document.documentElement.dataset.ready = '';
"""


def _digest(script: str) -> str:
    """As a Content-Security-Policy names the one script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def html(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The page; ``lead``: paragraphs before the first section."""
    links = "".join(f"<a href='#{section.id}'>{escape(section.title)}</a>" for section in sections)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src 'sha256-{_digest(SCRIPT)}'\">"
        f"<link rel='icon' href='data:,'><title>{escape(title)}</title><style>{TREE_STYLE}{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        + "".join(f"<p>{escape(paragraph)}</p>" for paragraph in lead)
        + f"<nav>{links}</nav>"
        + "\n".join(section.html() for section in sections)
        + f"<script>{SCRIPT}</script></body></html>\n"
    )
