// What ties the page together.
(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const models = read("models"), root = document.documentElement;

  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("advdpnp-theme", root.dataset.theme); } catch { /* then only this visit remembers */ }
  });

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = `data:${type};charset=utf-8,${encodeURIComponent(text)}`;
    link.download = name;
    link.click();
  }
  const quoted = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  document.querySelectorAll("[data-save]").forEach((button) => button.addEventListener("click", () => {
    const data = read("data"), columns = Object.keys(data.columns);
    if (button.dataset.save === "json") return save("leaderboard.json", "application/json", JSON.stringify(data, null, 1));
    save("leaderboard.csv", "text/csv", [columns, ...data.rows.map((row) => columns.map((name) => row[name]))].map((line) => line.map(quoted).join(",")).join("\n") + "\n");
  }));
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest("[data-copy]");
    if (!button) return;
    const text = button.previousElementSibling;
    try { await navigator.clipboard.writeText(text.textContent); button.textContent = "Copied"; } catch { getSelection().selectAllChildren(text); }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting) links.forEach((link, key) => link.classList.toggle("here", key === target.id));
  }, { rootMargin: "-20% 0px -75% 0px" });
  document.querySelectorAll("main > section").forEach((section) => observer.observe(section));

  Charts.start(models);
  Tables.start();
  Filter.start(models);
})();
