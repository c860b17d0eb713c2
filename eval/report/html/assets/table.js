// Tables: sorted by a click on a head, rows that open, panels that take turns.
const Tables = (() => {
  "use strict";
  const cellOf = (body, place) => body.rows[0].cells[place];
  const valueOf = (cell) => (cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim());

  // What is not known comes last in either direction.
  function compare(kind, direction) {
    return (a, b) => {
      if (kind === "text") return direction * a.localeCompare(b, undefined, { numeric: true });
      const [p, q] = [a, b].map((text) => (text === "" || text === "–" ? NaN : parseFloat(text.replaceAll(",", ""))));
      if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q);
      return direction * (p - q);
    };
  }

  // Rows beyond the first hundred wait in a template until somebody asks for them, sorts or filters.
  function fetchLater(within) {
    within.querySelectorAll("template").forEach((template) => {
      const block = template.closest(".block"), table = block.querySelector("table.board"), nobody = table.querySelector(".nobody");
      const bodies = [...template.content.querySelectorAll("tbody")];
      table.insertBefore(template.content, nobody);
      template.remove();
      block.querySelector("[data-later]")?.parentElement.remove();
      bodies.forEach(listen);
    });
  }

  function listen(within) {
    within.querySelectorAll(".more").forEach((button) =>
      button.addEventListener("click", () => open(button.getAttribute("aria-controls"))));
    within.querySelectorAll("[data-open]").forEach((button) => button.addEventListener("click", () => open(button.dataset.open)));
  }

  const turned = (order) => (order === "ascending" ? "descending" : "ascending");

  function sort(table, head, wanted) {
    fetchLater(table.closest(".block") ?? table);
    const kind = head.querySelector("button").dataset.sort, place = head.cellIndex;
    const first = kind === "text" ? "ascending" : "descending";
    const order = wanted ?? (head.getAttribute("aria-sort") === first ? turned(first) : first);
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const by = compare(kind, order === "ascending" ? 1 : -1);
    const bodies = [...table.tBodies].filter((body) => body.dataset.m !== undefined);
    bodies.sort((a, b) => by(valueOf(cellOf(a, place)), valueOf(cellOf(b, place))));
    const rest = [...table.tBodies].filter((body) => body.dataset.m === undefined);
    table.append(...bodies, ...rest);
  }

  function open(id, wanted) {
    const row = document.getElementById(id), button = document.querySelector(`[aria-controls="${id}"]`);
    const shown = wanted === undefined ? !row.classList.contains("open") : wanted;
    row.classList.toggle("open", shown);
    button.setAttribute("aria-expanded", String(shown));
    return row;
  }

  // Show the chosen panel; if the filter hides it, the first one that is left.
  function choose(box) {
    const select = box.querySelector("[data-choice]"), panels = [...box.querySelectorAll("[data-panel]")];
    const left = [...select.options].filter((option) => !option.hidden);
    if (select.selectedOptions[0]?.hidden && left.length) select.value = left[0].value;
    panels.forEach((panel, place) => panel.classList.toggle("passed-over", String(place) !== select.value));
  }

  function start() {
    document.querySelectorAll("table[data-sortable] thead th > button").forEach((button) =>
      button.addEventListener("click", () => {
        const table = button.closest("table");
        sort(table, button.parentElement);
        sorted.set(sortable().indexOf(table), [button.parentElement.cellIndex, button.parentElement.getAttribute("aria-sort")]);
        Address.write();
      }));
    listen(document);
    document.querySelectorAll("[data-later]").forEach((button) => button.addEventListener("click", () => fetchLater(button.closest(".block"))));
    document.querySelectorAll("[data-open-all]").forEach((button) => button.addEventListener("click", () => {
      const closed = [...document.querySelectorAll(".detail:not(.open)")];
      (closed.length ? closed : [...document.querySelectorAll(".detail")]).forEach((row) => open(row.id, closed.length > 0));
      button.textContent = closed.length ? "Close all rows" : "Open all rows";
    }));
    document.querySelectorAll("[data-panels]").forEach((box) => {
      box.querySelector("[data-choice]").addEventListener("change", () => choose(box));
      choose(box);
    });
  }

  // What readers have sorted, by the number of the table: a column and an order.
  const sorted = new Map();
  const sortable = () => [...document.querySelectorAll("table[data-sortable]")];
  const state = () => [...sorted].map(([number, [place, order]]) => `${number}.${place}.${order}`);
  function restore(texts) {
    for (const text of texts) {
      const [number, place, order] = text.split("."), table = sortable()[number], head = table?.tHead.rows[0].cells[place];
      if (!head?.querySelector("button[data-sort]") || !["ascending", "descending"].includes(order)) continue;
      sorted.set(Number(number), [Number(place), order]);
      sort(table, head, order);
    }
  }

  return { start, choose, fetchLater, listen, state, restore };
})();
