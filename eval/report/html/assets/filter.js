// One filter for the whole page: tables, heat maps, charts and pictures show the same models.
const Filter = (() => {
  "use strict";
  function start(models) {
    const form = document.getElementById("filter");
    if (!form) return;
    const value = (id) => document.getElementById(id)?.value ?? "";

    function apply() {
      const words = value("search").toLowerCase().split(/\s+/).filter(Boolean), method = value("method"), dataset = value("dataset");
      const hidden = new Set();
      if (words.length || method || dataset || document.getElementById("unflagged").checked) Tables.fetchLater(document);
      models.forEach((model, number) => {
        const text = `${model.name} ${model.method} ${model.architecture}`.toLowerCase();
        const passes = words.every((word) => text.includes(word)) && (!method || model.method === method)
          && !(document.getElementById("unflagged").checked && model.flagged);
        if (!passes) hidden.add(number);
      });
      document.querySelectorAll("[data-m]").forEach((node) => {
        if (node.namespaceURI.endsWith("svg")) return;
        const off = hidden.has(Number(node.dataset.m));
        if (node.tagName === "OPTION") { node.hidden = off; node.disabled = off; } else node.classList.toggle("off", off);
      });
      document.querySelectorAll("[data-dataset]").forEach((block) => block.classList.toggle("off", Boolean(dataset) && block.dataset.dataset !== dataset));
      document.querySelectorAll(".nobody").forEach((note) => {
        note.hidden = [...note.parentElement.tBodies].some((body) => body !== note && !body.classList.contains("off"));
      });
      document.querySelectorAll("[data-panels]").forEach(Tables.choose);
      document.documentElement.classList.toggle("without-bounds", !document.getElementById("bounds").checked);
      document.getElementById("count").textContent = `${models.length - hidden.size} of ${models.length}`;
      Charts.show(hidden);
    }
    const changed = () => { apply(); Address.write(); };

    form.addEventListener("input", changed);
    form.addEventListener("change", changed);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(changed));
    document.querySelectorAll("[data-reset]").forEach((button) => button.addEventListener("click", () => form.reset()));
    addEventListener("hashchange", () => { Address.read(); apply(); });
    Address.read();
    apply(); // browsers keep what was typed when a page is loaded again
  }
  return { start };
})();
