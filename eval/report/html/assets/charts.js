// Charts: drawn from the data beside them, at the width there is, in the colours of the style sheet.
const Charts = (() => {
  "use strict";
  const SPACE = "http://www.w3.org/2000/svg";
  const make = (tag, attributes = {}, text) => {
    const node = document.createElementNS(SPACE, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  // Long names of one table often begin alike, so the middle goes. Where two still look the same, there are none: the legend has them.
  const clip = (text, most) => (text.length > most ? `${text.slice(0, most / 2 - 1)}…${text.slice(-most / 2)}` : text);
  const distinct = (names) => new Set(names.map((name) => clip(name, 24))).size === names.length;
  const percent = (value) => value.toFixed(1);

  // Nice bounds around values in percent, and the ticks between them.
  function range(values) {
    const low = Math.min(...values), high = Math.max(...values);
    const step = high - low > 45 ? 20 : high - low > 18 ? 10 : 5;
    const first = Math.max(0, Math.floor((low - 1) / step) * step), last = Math.min(100, Math.ceil((high + 1) / step) * step);
    const ticks = [];
    for (let tick = first; tick <= last + 1e-9; tick += step) ticks.push(tick);
    if (ticks[ticks.length - 1] < last) ticks.push(last);
    return { first, last, ticks };
  }

  // Positions near the wanted ones and `gap` apart, in their order: neighbours that collide share the room.
  function spread(wanted, gap, low, high) {
    const order = wanted.map((_, place) => place).sort((a, b) => wanted[a] - wanted[b]);
    const blocks = [];
    for (const place of order) {
      blocks.push({ items: [place], centre: Math.min(Math.max(wanted[place], low), high) });
      for (;;) {
        const [b, a] = [blocks[blocks.length - 1], blocks[blocks.length - 2]];
        if (!a || b.centre - a.centre >= (gap * (a.items.length + b.items.length)) / 2) break;
        blocks.splice(-2, 2);
        const items = [...a.items, ...b.items], half = (gap * (items.length - 1)) / 2;
        const mean = items.reduce((sum, item) => sum + wanted[item], 0) / items.length;
        blocks.push({ items, centre: Math.min(Math.max(mean, low + half), Math.max(high - half, low + half)) });
      }
    }
    const places = [];
    for (const { items, centre } of blocks)
      items.forEach((item, rank) => { places[item] = centre + gap * (rank - (items.length - 1) / 2); });
    return places;
  }

  // A circle, square, triangle or diamond: after eleven colours the next shape.
  function mark(x, y, shape, size = 5) {
    const at = { class: "mark" };
    if (shape % 4 === 1) return make("rect", { ...at, x: x - size * 0.9, y: y - size * 0.9, width: size * 1.8, height: size * 1.8 });
    if (shape % 4 === 2) return make("path", { ...at, d: `M${x} ${y - size * 1.2}l${size * 1.15} ${size * 2}h${-size * 2.3}z` });
    if (shape % 4 === 3) return make("path", { ...at, d: `M${x} ${y - size * 1.3}l${size * 1.3} ${size * 1.3}l${-size * 1.3} ${size * 1.3}l${-size * 1.3} ${-size * 1.3}z` });
    return make("circle", { ...at, cx: x, cy: y, r: size });
  }

  const tip = document.getElementById("tip");
  function tell(event, name, lines) {
    tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: name }),
      ...lines.flatMap((line, place) => (place ? [document.createElement("br"), line] : [line])));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, event.clientY - height - 12)}px`;
  }
  const hush = () => { tip.hidden = true; };

  function light(plot, number) {
    plot.classList.toggle("dimmed", number !== null);
    plot.querySelectorAll(".model").forEach((group) => group.classList.toggle("lit", Number(group.dataset.m) === number));
  }

  const group = (model, models) => make("g", { class: `model c${models[model.m].colour}`, "data-m": model.m });
  const interval = (p) => (p.length > 2 ? ` (${percent(p[1])}–${percent(p[2])})` : "");

  function frame(width, height, inset, label) {
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
    svg.append(make("text", { class: "axis", x: inset.left + (width - inset.left - inset.right) / 2, y: height - 4, "text-anchor": "middle" }, label));
    return svg;
  }

  function yAxis(svg, bounds, y, width, inset) {
    for (const tick of bounds.ticks) {
      svg.append(make("line", { class: `gridline${tick === bounds.first ? " base" : ""}`, x1: inset.left, x2: width - inset.right, y1: y(tick), y2: y(tick) }));
      svg.append(make("text", { x: inset.left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick));
    }
  }

  function lines(spec, shown, models, width, plot) {
    const labelled = width >= 520 && shown.length <= 14 && distinct(shown.map((s) => s.name));
    const longest = labelled ? Math.max(0, ...shown.map((s) => Math.min(s.name.length, 24))) : 0;
    const inset = { left: 34, right: labelled ? 52 + longest * 6.6 : 14, top: 10, bottom: 44 };
    const height = Math.round(Math.max(250, Math.min(360, width * 0.5)));
    const bounds = range(shown.flatMap((s) => s.points.flatMap((p) => p.slice(1))));
    const last = spec.ticks[spec.ticks.length - 1][0] || 1;
    const x = (value) => inset.left + 6 + ((width - inset.left - inset.right - 12) * value) / last;
    const y = (value) => height - inset.bottom - ((height - inset.top - inset.bottom) * (value - bounds.first)) / (bounds.last - bounds.first || 1);
    const svg = frame(width, height, inset, spec.x);
    yAxis(svg, bounds, y, width, inset);
    let free = -1e9;
    spec.ticks.forEach(([value, text], place) => {
      const final = place === spec.ticks.length - 1;
      if (x(value) - free < 40 || (!final && place && x(last) - x(value) < 40)) return;
      free = x(value);
      svg.append(make("text", { x: x(value), y: height - inset.bottom + 18, "text-anchor": "middle" }, text));
    });
    const ends = shown.map((s) => y(s.points[s.points.length - 1][1]));
    const places = spread(ends, 15, inset.top + 4, height - inset.bottom);
    shown.forEach((s, place) => {
      const g = group(s, models), p = s.points;
      const curve = p.length > 2;  // two points are no curve: they get intervals and no line
      if (!curve) for (const point of p.filter((each) => each.length > 2)) {
        g.append(make("line", { class: "cross", x1: x(point[0]), x2: x(point[0]), y1: y(point[2]), y2: y(point[3]) }));
      }
      if (curve && p.every((point) => point.length > 2)) {
        const upper = p.map((point) => `${x(point[0])} ${y(point[3])}`), lower = p.map((point) => `${x(point[0])} ${y(point[2])}`).reverse();
        g.append(make("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }));
      }
      if (curve) g.append(make("path", { class: "curve", d: `M${p.map((point) => `${x(point[0])} ${y(point[1])}`).join("L")}` }));
      p.forEach((point) => {
        const dot = mark(x(point[0]), y(point[1]), models[s.m].mark, 4);
        const tick = spec.ticks.find((each) => each[0] === point[0]);
        dot.addEventListener("pointerenter", (event) => tell(event, s.name, [`${spec.x} ${tick ? tick[1] : point[0]}: ${percent(point[1])} %${interval(point.slice(1))}`]));
        dot.addEventListener("pointerleave", hush);
        g.append(dot);
      });
      if (labelled) g.append(make("text", { class: "end", x: width - inset.right + 6, y: places[place] + 4 }, `${clip(s.name, 24)}  ${percent(p[p.length - 1][1])}`));
      g.addEventListener("pointerenter", () => light(plot, s.m));
      g.addEventListener("pointerleave", () => light(plot, null));
      svg.append(g);
    });
    return { svg, labelled };
  }

  // A free place for each name around its point; none at all unless there is one for every name: the legend has them.
  function label(points, width, bottom) {
    const boxes = points.map((p) => ({ left: p.x - 7, right: p.x + 7, top: p.y - 7, bottom: p.y + 7 }));
    const clash = (a) => a.left < 30 || a.right > width || a.top < 16 || a.bottom > bottom
      || boxes.some((b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom);
    const places = points.map((p) => {
      const wide = p.text.length * 7.7;
      for (const [dx, dy] of [[11, -9], [11, 16], [-11 - wide, -9], [-11 - wide, 16], [11, -22], [-11 - wide, -22], [11, 29], [-11 - wide, 29]]) {
        const box = { left: p.x + dx, right: p.x + dx + wide, top: p.y + dy - 11, bottom: p.y + dy + 3 };
        if (!clash(box)) { boxes.push(box); return { x: box.left, y: p.y + dy }; }
      }
      return null;
    });
    return places.every(Boolean) && distinct(points.map((p) => p.name)) ? places : places.map(() => null);
  }

  function scatter(spec, shown, models, width, plot) {
    const height = Math.round(Math.max(270, Math.min(390, width * 0.62)));
    const inset = { left: 34, right: 16, top: 26, bottom: 44 };
    const across = range(shown.flatMap((p) => p.x)), up = range(shown.flatMap((p) => p.y));
    const x = (v) => inset.left + 4 + ((width - inset.left - inset.right - 8) * (v - across.first)) / (across.last - across.first || 1);
    const y = (v) => height - inset.bottom - ((height - inset.top - inset.bottom) * (v - up.first)) / (up.last - up.first || 1);
    const svg = frame(width, height, inset, spec.x);
    yAxis(svg, up, y, width, inset);
    svg.append(make("text", { x: 0, y: 12 }, spec.y));
    for (const tick of across.ticks) svg.append(make("text", { x: x(tick), y: height - inset.bottom + 18, "text-anchor": "middle" }, tick));
    const names = label(shown.map((p) => ({ x: x(p.x[0]), y: y(p.y[0]), name: p.name, text: clip(p.name, 24) })), width, height - inset.bottom);
    shown.forEach((p, place) => {
      const g = group(p, models), [cx, cy] = [x(p.x[0]), y(p.y[0])];
      g.append(make("line", { class: "cross", x1: x(p.x[1]), x2: x(p.x[2]), y1: cy, y2: cy }));
      g.append(make("line", { class: "cross", x1: cx, x2: cx, y1: y(p.y[1]), y2: y(p.y[2]) }));
      g.append(mark(cx, cy, models[p.m].mark, 6));
      if (names[place]) g.append(make("text", { class: "end", x: names[place].x, y: names[place].y }, clip(p.name, 24)));
      g.addEventListener("pointermove", (event) => tell(event, p.name, [`${spec.x.split(",")[0]} ${percent(p.x[0])} %${interval(p.x)}`, `${spec.y.split(",")[0]} ${percent(p.y[0])} %${interval(p.y)}`]));
      g.addEventListener("pointerenter", () => light(plot, p.m));
      g.addEventListener("pointerleave", () => { light(plot, null); hush(); });
      svg.append(g);
    });
    return { svg, labelled: names.every(Boolean) };
  }

  // One line per model, which lights up its marks; only where the chart does not name them itself.
  function legend(list, shown, models, plot) {
    list.replaceChildren(...shown.map((each) => {
      const item = document.createElement("li"), key = make("svg", { viewBox: "0 0 14 14", width: 14, height: 14, class: `c${models[each.m].colour}`, "aria-hidden": "true" });
      key.append(mark(7, 7, models[each.m].mark));
      item.append(key, each.name);
      item.addEventListener("pointerenter", () => light(plot, each.m));
      item.addEventListener("pointerleave", () => light(plot, null));
      return item;
    }));
  }

  const KINDS = { lines, scatter };
  const charts = [];

  function draw(chart, models, hidden) {
    const width = Math.floor(chart.plot.clientWidth);
    if (!width) return;
    const all = chart.spec.series || chart.spec.points, shown = all.filter((each) => !hidden.has(each.m));
    hush();
    if (!shown.length) { chart.plot.replaceChildren(); chart.legend.replaceChildren(); return; }
    const { svg, labelled } = KINDS[chart.spec.kind](chart.spec, shown, models, width, chart.plot);
    chart.plot.replaceChildren(svg);
    legend(chart.legend, labelled ? [] : shown, models, chart.plot);
  }

  let state = { models: [], hidden: new Set() };
  const redraw = () => charts.forEach((chart) => draw(chart, state.models, state.hidden));

  // Find every chart of the page and keep it drawn as its width changes.
  function start(models) {
    state.models = models;
    document.querySelectorAll("[data-chart]").forEach((figure) => {
      charts.push({ spec: JSON.parse(figure.querySelector("script").textContent), plot: figure.querySelector(".plot"), legend: figure.querySelector(".legend"), width: 0 });
    });
    const observer = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const chart = charts.find((each) => each.plot === target);
        if (Math.floor(target.clientWidth) !== chart.width) { chart.width = Math.floor(target.clientWidth); draw(chart, state.models, state.hidden); }
      }
    });
    charts.forEach((chart) => observer.observe(chart.plot));
  }

  return { start, show(hidden) { state.hidden = hidden; redraw(); } };
})();
