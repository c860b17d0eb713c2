// Before the first paint: the reader's last choice of light or dark, else what the system says.
(() => {
  document.documentElement.classList.add("scripted");
  try {
    const chosen = localStorage.getItem("advdpnp-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* a browser that stores nothing follows the system */ }
})();
