// The address holds what is filtered and sorted, so that a link or a bookmark shows the same again.
const Address = (() => {
  "use strict";
  const FIELDS = ["search", "dataset", "method"], BOXES = { unflagged: false, bounds: true };

  function write() {
    const state = new URLSearchParams();
    for (const id of FIELDS) {
      const value = document.getElementById(id)?.value;
      if (value) state.set(id, value);
    }
    for (const [id, usual] of Object.entries(BOXES)) {
      const { checked } = document.getElementById(id);
      if (checked !== usual) state.set(id, checked ? "1" : "0");
    }
    for (const text of Tables.state()) state.append("sort", text);
    const text = String(state), now = location.hash.slice(1);
    if (text !== now && (text || now.includes("="))) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  // What is no state is the name of a section, and changes nothing.
  function read() {
    const text = location.hash.slice(1);
    if (!text.includes("=")) return;
    const state = new URLSearchParams(text);
    for (const id of FIELDS) {
      const field = document.getElementById(id), value = state.get(id) ?? "";
      if (field && (field.tagName === "INPUT" || [...field.options].some((option) => option.value === value))) field.value = value;
    }
    for (const [id, usual] of Object.entries(BOXES)) document.getElementById(id).checked = state.has(id) ? state.get(id) === "1" : usual;
    Tables.restore(state.getAll("sort"));
  }
  return { read, write };
})();
