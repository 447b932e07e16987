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
