"use strict";
// Views are all in the page: a switch shows one of them, a deep link names it, a heading sorts its table.
const choiceOf = (view) => JSON.parse(view.dataset.choice);

const wishes = new WeakMap(); // section -> the options last chosen
const shown = (section) => section.querySelector(".view:not([hidden])");

function show(section, view) {
  for (const each of section.querySelectorAll(".view")) each.hidden = each !== view;
  const choice = choiceOf(view);
  for (const select of section.querySelectorAll(".switches select")) select.value = choice[select.name];
}

// The view with these options; where there is none, the nearest one that has the option just chosen.
function nearest(section, wanted, first) {
  let best, most = -1;
  for (const view of section.querySelectorAll(".view")) {
    const choice = choiceOf(view);
    let score = 0;
    for (const key in wanted) if (choice[key] === wanted[key]) score += key === first ? 100 : 1;
    if (score > most) [best, most] = [view, score];
  }
  return best;
}

function follow() {
  const [id, query] = location.hash.slice(1).split("?");
  const target = document.getElementById(id);
  if (!target) return;
  const section = target.closest("section");
  if (query !== undefined && section) {
    const view = nearest(section, Object.fromEntries(new URLSearchParams(query)));
    wishes.delete(section);
    if (view) show(section, view);
  }
  const view = target.closest(".view");
  if (view && view.hidden) show(section, view);
  for (let each = target.parentElement; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
  for (const each of document.querySelectorAll("tr.target")) each.classList.remove("target");
  if (target.tagName === "TR") target.classList.add("target");
  target.scrollIntoView({ block: target.tagName === "TR" ? "center" : "start" });
}

document.addEventListener("change", (event) => {
  const select = event.target.closest(".switches select");
  if (!select) return;
  const section = select.closest("section"), wanted = wishes.get(section) ?? {};
  for (const each of section.querySelectorAll(".switches select")) wanted[each.name] ??= choiceOf(shown(section))[each.name];
  wanted[select.name] = select.value;
  wishes.set(section, wanted); // an option that the view at hand lacks comes back with a view that has it
  const view = nearest(section, wanted, select.name);
  show(section, view);
  history.replaceState(null, "", `#${section.id}?${new URLSearchParams(choiceOf(view))}`);
});

function sort(heading) {
  const table = heading.closest("table"), at = heading.cellIndex, body = table.tBodies[0];
  const way = heading.ariaSort === "ascending" ? "descending" : "ascending";
  for (const each of heading.parentElement.cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", way);
  const by = (row) => row.cells[at].dataset.by;
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [by(one), by(other)], [x, y] = [Number(a), Number(b)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what was not measured comes last, either way
    const order = Number.isNaN(x) - Number.isNaN(y) || (Number.isNaN(x) ? a.localeCompare(b) : x - y);
    return way === "ascending" ? order : -order;
  });
  body.append(...rows);
}

for (const heading of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.textContent = heading.textContent;
  button.addEventListener("click", () => sort(heading));
  heading.replaceChildren(button);
}
for (const form of document.querySelectorAll(".switches")) form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeprint", () => document.querySelectorAll(".numbers, .about").forEach((each) => (each.open = true)));
addEventListener("hashchange", follow);
follow();
