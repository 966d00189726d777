// Tabs, and filters over the rows of every table. What is chosen stands in the address, after '#', and can be passed on:
// #tab=moru&size=6M&sort=overall. Without a script all tabs lie one below the other.
const tabs = [...document.querySelectorAll('[role=tab]')];
const filters = [...document.querySelectorAll('[data-filter]')];
const choose = (name, focus) => {
  const chosen = tabs.find(tab => tab.dataset.name === name) || tabs[0];
  for (const tab of tabs) {
    const on = tab === chosen;
    tab.setAttribute('aria-selected', on);
    tab.tabIndex = on ? 0 : -1;
    document.getElementById(tab.getAttribute('aria-controls')).hidden = !on;
  }
  if (focus && chosen) chosen.focus();
};
const filter = () => {
  const wanted = filters.map(field => [field.dataset.filter, field.value.trim().toLowerCase()]).filter(([, value]) => value);
  const fits = row => wanted.every(([key, value]) => {
    const has = row.dataset[key].toLowerCase();
    return key === 'name' ? has.includes(value) : has === value;
  });
  let shown = 0, all = 0;
  for (const table of document.querySelectorAll('table.board')) {
    let here = 0;
    for (const row of table.tBodies[0].rows) { row.hidden = !fits(row); here += !row.hidden; }
    table.parentElement.nextElementSibling.hidden = here > 0;
    if (!table.closest('section').hidden) { shown += here; all += table.tBodies[0].rows.length; }
  }
  document.getElementById('count').textContent = `${shown} of ${all} rows`;
};
const remember = () => {
  const chosen = tabs.find(tab => tab.getAttribute('aria-selected') === 'true');
  const state = new URLSearchParams(chosen ? {tab: chosen.dataset.name} : {});
  for (const field of filters) if (field.value) state.set(field.dataset.filter, field.value);
  history.replaceState(null, '', '#' + state);
  filter();
};
const recall = () => {
  const state = new URLSearchParams(location.hash.slice(1));
  choose(state.get('tab'), false);
  for (const field of filters) field.value = state.get(field.dataset.filter) || '';
  filter();
  const column = state.get('sort');
  for (const head of document.querySelectorAll('section:not([hidden]) .board th')) if (head.textContent === column) head.click();
};
tabs.forEach((tab, at) => {
  tab.addEventListener('click', () => { choose(tab.dataset.name, false); remember(); });
  tab.addEventListener('keydown', event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step) { choose(tabs[(at + step + tabs.length) % tabs.length].dataset.name, true); remember(); }
  });
});
for (const field of filters) field.addEventListener('input', remember);
addEventListener('hashchange', recall);
recall();
