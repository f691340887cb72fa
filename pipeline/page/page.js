/* Draws what the data block holds. Names and texts reach the page as text nodes and attributes, never as markup. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data-json").textContent);
  const classes = data.classes;
  const byId = (id) => document.getElementById(id);
  document.body.classList.add(data.kind);

  /* ---- small parts ---- */

  const make = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "path"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const percent = (share) => (100 * share).toFixed(share > 0.9995 || share < 0.0995 ? 2 : 1) + " %";

  // Colour and shape tell a class: either alone is enough for the first few.
  const LIGHT = ["#2f55d4", "#c2410c", "#0f766e", "#b0207f", "#8a6100", "#0273a8", "#7c3aed", "#217a35", "#c01f46", "#6b655c"];
  const DARK = ["#8ea8ff", "#ff9a5c", "#45cdbb", "#f58ad6", "#e2bd49", "#5cc3f5", "#b79bff", "#6fdc8c", "#ff8197", "#c7c2bb"];
  const SHAPES = [
    ["circle", "M12 8A4 4 0 1 1 4 8A4 4 0 1 1 12 8Z"], ["square", "M4.3 4.3H11.7V11.7H4.3Z"],
    ["diamond", "M8 2.6L12 8L8 13.4L4 8Z"], ["triangle", "M8 3L13.4 12.4H2.6Z"],
    ["inverted_triangle", "M8 13L2.6 3.6H13.4Z"],
  ];
  const hue = (index) => (dark.matches ? DARK : LIGHT)[index % 10];
  const shape = (index) => SHAPES[(index + Math.floor(index / 10)) % SHAPES.length];
  const swatch = (index, fill, open = false) => make("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" },
    make("path", { d: shape(index)[1], fill: open ? "none" : fill ?? hue(index), stroke: open ? fill : null, "stroke-width": 1.3 }));

  /* ---- examples: an image from a sheet of sprites, a series as lines, a text as words ---- */

  const images = {};
  const bytes = {};
  const decode = async () => {
    for (const name of ["points", "grid_sheet"]) {
      const sheet = data[name];
      if (sheet.png) {
        images[name] = new Image();
        images[name].src = sheet.png;
        await images[name].decode();
      } else if (sheet.bytes) {
        bytes[name] = Uint8Array.from(atob(sheet.bytes), (letter) => letter.charCodeAt(0));
      }
    }
  };

  const cell = (name, index, label, words = 6) => {
    const sheet = data[name];
    const said = { class: "cell", role: "img", "aria-label": label };
    if (sheet.png) {
      const { width, height, columns } = sheet;
      const canvas = make("canvas", { ...said, width, height });
      if (width > 96) canvas.style.imageRendering = "auto";
      const x = (index % columns) * width;
      const y = Math.floor(index / columns) * height;
      canvas.getContext("2d").drawImage(images[name], x, y, width, height, 0, 0, width, height);
      return canvas;
    }
    if (sheet.bytes) {
      const { channels, length } = sheet;
      const svg = make("svg", { ...said, viewBox: "0 0 100 56", preserveAspectRatio: "none" });
      for (let channel = 0; channel < channels; channel++) {
        const start = (index * channels + channel) * length;
        let d = "";
        let pen = "M";
        for (let t = 0; t < length; t++) {
          const value = bytes[name][start + t];
          if (value === 255) { pen = "M"; continue; }
          d += `${pen}${(2 + 96 * t / Math.max(1, length - 1)).toFixed(1)} ${(53 - value / 5).toFixed(1)}`;
          pen = "L";
        }
        svg.append(make("path", { d, stroke: hue(channel) }));
      }
      return svg;
    }
    const found = sheet.words[index].filter((word) => word >= 0).slice(0, words);
    return make("ul", { class: "cell", "aria-label": label }, ...found.map((word) => make("li", {}, data.words[word])));
  };
  const point = (i, part, label, words) => cell("points", i * data.per_point + part, label, words);
  const grid = (name, index, label) => cell("grid_sheet", data.grids[name].start + index, label);

  /* ---- grids ---- */

  const table = (id, columns, rows, corner) => {
    const head = make("tr", {}, make("th", { scope: "col" }, make("span", { class: "visually-hidden" }, corner)),
      ...columns.map((name) => make("th", { scope: "col", class: /^[\u2212\d.]+$/.test(name) ? "num" : null }, name)));
    const body = rows.map(([name, cells]) => make("tr", {}, make("th", { scope: "row", title: name }, name),
      ...cells.map((content, i) => make("td", { class: i === 0 && columns[0] === "x" ? "first" : null }, content))));
    byId(id).replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  };
  const range = (n) => [...Array(n).keys()];

  const swaps = () => {
    const first = classes.map((_, c) => data.label.findIndex((label, i) => label === c && i < data.sampled));
    // A row for each of very many classes would be slow to draw, and no more telling.
    const rows = first.filter((i) => i >= 0).slice(0, 20).map((i) => [classes[data.label[i]], [
      point(i, 0, `test example of ${classes[data.label[i]]}`),
      ...classes.map((name, c) => point(i, 2 + c, `its v with r of ${name}`)),
    ]]);
    table("grid-swap", ["x", ...classes], rows, "class of x, by class of r");
  };
  const traversal = (unit) => {
    const [, many, steps] = data.grids.traversal.shape;
    const rows = range(many).map((c) => [classes[c], range(steps).map((t) =>
      grid("traversal", (unit * many + c) * steps + t, `r of ${classes[c]}, unit at ${data.values[t]}`))]);
    table("grid-traversal", data.values.map((value) => String(value).replace("-", "\u2212")), rows, "class of r, by value of the unit");
  };
  const interpolation = (along) => {
    const name = `interpolation_${along}`;
    const [pairs, steps] = data.grids[name].shape;
    const rows = range(pairs).map((p) => {
      const [from, to] = data.pairs[p].map((i) => classes[data.label[i]]);
      const made = range(steps).map((t) => grid(name, p * steps + t, `${Math.round(100 * t / (steps - 1))} % of the way`));
      const ends = data.pairs[p].map((i) => point(i, 0, `test example of ${classes[data.label[i]]}`));
      return [`${from} to ${to}`, [ends[0], ...made, ends[1]]];
    });
    const between = range(steps).map((t) => (t / (steps - 1)).toFixed(2).replace(/\.?0+$/, ""));
    table("grid-interpolation", ["x", ...between, "x\u2032"], rows, "pair, by share of the way");
  };
  const samples = () => {
    const [many, draws] = data.grids.samples.shape;
    const rows = range(many).map((c) => [classes[c], range(draws).map((s) =>
      grid("samples", c * draws + s, `sample ${s + 1} of ${classes[c]}`))]);
    table("grid-samples", range(draws).map((s) => String(s + 1)), rows, "class of r, by draw of v");
  };

  /* ---- charts: BokehJS draws, and takes no part in mouse or keyboard ---- */

  Bokeh.set_log_level("error");
  const views = new Map();
  const span = (values, share = 0.06) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = share * (high - low || Math.abs(high) || 1);
    return [low - room, high + room];
  };
  const fromZero = (values) => [0, 1.08 * Math.max(...values, 1e-9)];

  /* An axis: its label, [start, end], and maybe log, ticks (a list, none: no axis) and grid. */
  const plot = async (element, x, y, build) => {
    const inner = make("div", { class: "plot" });
    inner.inert = true;
    const figure = Bokeh.Plotting.figure({
      tools: [], toolbar_location: null, sizing_mode: "stretch_both", background_fill_color: null, border_fill_color: null,
      outline_line_color: null, min_border: 6,
      x_axis_type: x.log ? "log" : "linear", y_axis_type: y.log ? "log" : "linear",
      x_range: new Bokeh.Range1d({ start: x.range[0], end: x.range[1] }),
      y_range: new Bokeh.Range1d({ start: y.range[0], end: y.range[1] }),
    });
    const font = { font: colour("--sans"), size: "12px", color: colour("--quiet") };
    for (const [side, axis, lines] of [[x, figure.xaxes[0], figure.xgrids[0]], [y, figure.yaxes[0], figure.ygrids[0]]]) {
      for (const kind of ["axis_label", "major_label"]) {
        axis[`${kind}_text_font`] = font.font;
        axis[`${kind}_text_font_size`] = font.size;
        axis[`${kind}_text_color`] = font.color;
      }
      axis.axis_label = side.label ?? "";
      axis.axis_label_text_font_style = "normal";
      axis.axis_line_color = axis.minor_tick_line_color = axis.major_tick_line_color = null;
      axis.visible = side.ticks !== null;
      lines.grid_line_color = side.grid === false ? null : colour("--line");
      if (side.ticks) {
        axis.ticker = new Bokeh.FixedTicker({ ticks: side.ticks });
        axis.major_label_overrides = new Map(side.ticks.map((tick) => [tick, tick.toLocaleString("en")]));
        lines.ticker = axis.ticker;
      }
    }
    build(figure);
    views.get(element)?.remove();
    element.replaceChildren(inner);
    views.set(element, await Bokeh.Plotting.show(figure, inner));
  };
  const chart = (element, label, x, y, build) => {
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", label);
    return plot(element, x, y, build);
  };
  /* 1, 2 and 5 of each decade in a range. */
  const decades = ([low, high]) => range(12).flatMap((d) => [1, 2, 5].map((n) => Number((n * 10 ** (d - 6)).toPrecision(1))))
    .filter((tick) => tick >= low && tick <= high);

  const labelChart = () => {
    const counts = data.labels.filter((c) => c.kind !== "published").flatMap((c) => c.x);
    const [low, high] = [Math.min(...counts), Math.max(...counts)];
    const curves = data.labels.map((curve) => {
      const shown = range(curve.x.length).filter((i) => curve.x[i] >= low && curve.x[i] <= high);
      const at = (list) => shown.map((i) => list[i]);
      return { ...curve, x: at(curve.x), y: at(curve.y), sd: at(curve.sd), n: at(curve.n) };
    }).filter((curve) => curve.x.length);
    const every = curves.flatMap((curve) => curve.y);
    const log = Math.min(...every) > 0 && Math.max(...every) / Math.min(...every) > 8;
    const [least, most] = log ? [Math.min(...every) / 1.3, Math.max(...every) * 1.3] : fromZero(every);
    const looks = curves.map((curve, index) => {
      const own = curves.slice(0, index).filter((other) => other.kind === curve.kind).length;
      const published = curve.kind === "published";
      // The shapes run out before the published methods do: the next ones are filled.
      return { published, open: published && own < SHAPES.length - 1, fill: published ? colour("--quiet") : curve.kind === "run" ? colour("--ink") : hue(own), mark: published ? (own + 1) % SHAPES.length : own };
    });
    byId("legend-labels").replaceChildren(...curves.map((curve, i) =>
      make("li", {}, swatch(looks[i].mark, looks[i].fill, looks[i].open), `${curve.name} (${curve.note})`)));
    const ticks = [...new Set(counts)].sort((a, b) => a - b);
    const x = { label: "labelled examples", log: true, range: [low / 1.25, high * 1.25], ticks };
    const y = { label: "test error, %", log, range: [least, most], ticks: log ? decades([least, most]) : undefined };
    return chart(byId("chart-labels"), "Test error against the number of labels; the table below has the numbers.", x, y, (figure) => {
      curves.forEach((curve, i) => {
        const { fill, mark, published, open } = looks[i];
        const bars = range(curve.x.length).filter((k) => curve.n[k] > 1);
        const ends = (sign) => bars.map((k) => Math.max(curve.y[k] + sign * curve.sd[k], log ? curve.y[k] / 10 : 0));
        figure.segment(bars.map((k) => curve.x[k]), ends(-1), bars.map((k) => curve.x[k]), ends(1), { line_color: fill, line_width: 1.4 });
        if (curve.x.length > 1) figure.line(curve.x, curve.y, { line_color: fill, line_width: published ? 1 : 2.2, line_dash: published ? [3, 4] : [] });
        figure.scatter(curve.x, curve.y, { marker: shape(mark)[0], size: curve.kind === "run" ? 15 : 10, fill_color: open ? colour("--paper") : fill, line_color: fill, line_width: 1.4 });
      });
    });
  };

  const calibrationChart = () => {
    const bins = data.calibration.filter((bin) => bin.n > 0);
    const most = Math.max(...bins.map((bin) => bin.n));
    const unit = { range: [-0.03, 1.06], ticks: [0, 0.2, 0.4, 0.6, 0.8, 1] };
    const label = "Accuracy against confidence, the size of a dot by its number of points; the table below has the numbers.";
    return chart(byId("chart-calibration"), label, { label: "confidence", ...unit }, { label: "accuracy", ...unit }, (figure) => {
      figure.line([0, 1], [0, 1], { line_color: colour("--quiet"), line_dash: [5, 4] });
      const [x, y] = [bins.map((bin) => bin.x), bins.map((bin) => bin.y)];
      figure.line(x, y, { line_color: colour("--r"), line_width: 2 });
      figure.scatter(x, y, { size: bins.map((bin) => 7 + 15 * Math.sqrt(bin.n / most)), fill_color: colour("--r"), line_color: colour("--paper"), line_width: 1.5 });
    });
  };
  const riskChart = () => {
    const { x, y } = data.risk;
    const label = "Error against the share of points answered; the table below has the numbers.";
    return chart(byId("chart-risk"), label, { label: "answered, %", range: [0, 101] }, { label: "error, %", range: fromZero(y) }, (figure) => {
      figure.varea(x, x.map(() => 0), y, { fill_color: colour("--r-wash") });
      figure.line(x, y, { line_color: colour("--r"), line_width: 2.2 });
    });
  };
  const historyCharts = () => {
    const colours = [colour("--r"), colour("--v"), hue(2)];
    const charts = data.history.map(() => make("div", { class: "chart" }));
    byId("history").replaceChildren(...data.history.map((panel, number) => make("figure", {}, make("h3", {}, panel.title), charts[number],
      panel.lines.length < 2 ? "" : make("ul", { class: "legend" }, ...panel.lines.map((line, i) => make("li", {}, swatch(i, colours[i]), line.name))))));
    return Promise.all(data.history.map((panel, number) => {
      const every = panel.lines.flatMap((line) => line.y).filter((value) => value !== null);
      const share = panel.unit.startsWith("error") || panel.unit.startsWith("share");
      const x = { label: "epoch", range: span(panel.x, 0.03) };
      const y = { label: panel.unit, range: share ? fromZero(every) : span(every) };
      return chart(charts[number], `${panel.title} by epoch; the table below has the numbers.`, x, y, (figure) => {
        panel.lines.forEach((line, i) => {
          const values = line.y.map((value) => value ?? NaN);
          figure.line(panel.x, values, { line_color: colours[i], line_width: 2 });
          if (panel.x.length <= 40) figure.scatter(panel.x, values, { marker: shape(i)[0], size: 7, fill_color: colours[i], line_color: null });
        });
      });
    }));
  };

  /* ---- maps ---- */

  const tip = byId("tip");
  let selected = 0;
  let projection = "tsne";
  const cursor = { r: null, v: null };
  const about = (i) => {
    const wrong = data.predicted[i] !== data.label[i];
    return `${classes[data.label[i]]}${wrong ? `, taken for ${classes[data.predicted[i]]}` : ""}`;
  };
  const rings = {};
  const drawMap = (name) => {
    const { explained, [projection]: xy } = data.maps[name];
    const axes = [0, 1].map((side) => ({
      label: projection === "pca" ? `component ${side + 1} (${explained[side]} % of the variance)` : "", grid: false,
      range: span(xy.map((at) => at[side]), 0.04), ticks: projection === "pca" ? undefined : null,
    }));
    const element = byId(`map-${name}`);
    return plot(element, axes[0], axes[1], (figure) => {
      const all = data.label.slice(0, data.sampled);
      figure.scatter(xy.map((at) => at[0]), xy.map((at) => at[1]), {
        marker: all.map((c) => shape(c)[0]), fill_color: all.map(hue), fill_alpha: 0.82, line_color: null, size: 8.5,
      });
      rings[name] = [[15, 1.6, "--ink"], [22, 3, "--ink"], [17, 2.6, "--focus"]].map(([size, line_width, ink]) => {
        const source = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
        figure.scatter({ field: "x" }, { field: "y" }, { source, marker: "circle", fill_color: null, line_color: colour(ink), size, line_width });
        return source;
      });
      ring(name);
    });
  };
  /* Marks the neighbours, the selected point, and where the keyboard is. */
  const ring = (name) => {
    const xy = data.maps[name][projection];
    const marked = [data.near[name][selected], [selected], [cursor[name]]];
    rings[name].forEach((source, kind) => {
      const here = marked[kind].filter((i) => i !== null && i < data.sampled);
      source.data = { x: here.map((i) => xy[i][0]), y: here.map((i) => xy[i][1]) };
    });
  };
  const drawMaps = () => Promise.all([drawMap("r"), drawMap("v")]);

  /* Where points of a map are on the screen. */
  const places = (name) => {
    const view = views.get(byId(`map-${name}`));
    const { x_scale, y_scale } = view.frame;
    const box = view.el.getBoundingClientRect();
    return data.maps[name][projection].map(([x, y]) => [box.left + x_scale.compute(x), box.top + y_scale.compute(y)]);
  };
  const nearest = (name, x, y) => {
    let [best, least] = [null, 14];
    places(name).forEach(([px, py], i) => {
      const away = Math.hypot(px - x, py - y);
      if (away < least) [best, least] = [i, away];
    });
    return best;
  };
  const showTip = (i, x, y) => {
    tip.replaceChildren(point(i, 0, "test example"), make("div", {}, about(i)), make("div", {}, percent(data.confidence[i])));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
    tip.style.top = `${Math.max(4, y + 14 + height > innerHeight ? y - height - 14 : y + 14)}px`;
  };
  const hideTip = () => { tip.hidden = true; };

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const towards = (name, from, [ux, uy]) => {
    const all = places(name);
    const [x, y] = all[from];
    let [best, least] = [from, Infinity];
    all.forEach(([px, py], i) => {
      const along = (px - x) * ux + (py - y) * uy;
      const across = Math.abs((px - x) * uy) + Math.abs((py - y) * ux);
      if (i !== from && along > 0.5 && along + 2.5 * across < least) [best, least] = [i, along + 2.5 * across];
    });
    return best;
  };
  /* Shows a part of a map around its point of interest: of the whole range if 0, else so much of the present one. */
  const zoom = (name, factor) => {
    const { x_range, y_range } = views.get(byId(`map-${name}`)).model;
    const xy = data.maps[name][projection];
    const at = xy[cursor[name] ?? (selected < data.sampled ? selected : 0)];
    [x_range, y_range].forEach((range, side) => {
      const [low, high] = span(xy.map((point) => point[side]), 0.04);
      const width = factor ? Math.min(high - low, factor * (range.end - range.start)) : high - low;
      const start = Math.max(low, Math.min(high - width, at[side] - width / 2));
      range.setv({ start, end: start + width });
    });
    hideTip();
  };
  const move = (name, i) => {
    cursor[name] = i;
    ring(name);
    const { x_range, y_range } = views.get(byId(`map-${name}`)).model;
    const [x, y] = data.maps[name][projection][i];
    // A point outside the part that is shown is brought into it.
    if (x < x_range.start || x > x_range.end || y < y_range.start || y > y_range.end) zoom(name, 1);
    showTip(i, ...places(name)[i]);
    byId("said").textContent = `${data.keys[i]}, class ${about(i)}`;
  };
  const listen = (name) => {
    const element = byId(`map-${name}`);
    element.addEventListener("pointermove", (event) => {
      const i = nearest(name, event.clientX, event.clientY);
      element.style.cursor = i === null ? "" : "pointer";
      if (i === null) hideTip();
      else showTip(i, event.clientX, event.clientY);
    });
    element.addEventListener("pointerleave", hideTip);
    element.addEventListener("click", (event) => {
      const i = nearest(name, event.clientX, event.clientY);
      if (i !== null) select(i);
    });
    element.addEventListener("keydown", (event) => {
      const start = cursor[name] ?? (selected < data.sampled ? selected : 0);
      if (event.key in ARROWS) move(name, cursor[name] === null ? start : towards(name, start, ARROWS[event.key]));
      else if (event.key === "Home") move(name, 0);
      else if (event.key === "End") move(name, data.sampled - 1);
      else if (event.key === "Enter" || event.key === " ") select(start);
      else if (event.key === "+" || event.key === "=") zoom(name, 0.5);
      else if (event.key === "-") zoom(name, 2);
      else if (event.key === "0") zoom(name, 0);
      else if (event.key === "Escape") hideTip();
      else return;
      event.preventDefault();
    });
    element.addEventListener("blur", () => { cursor[name] = null; hideTip(); ring(name); });
  };

  const figure = (content, name, big = false) => make("figure", { class: big ? "big" : null }, content, make("figcaption", {}, name));
  const goTo = (i) => make("button", { type: "button", class: "example", "data-point": i },
    point(i, 0, `test example ${data.keys[i]}`, 4), make("span", { class: "name" }, about(i)));
  const strip = (items) => make("ul", { class: "strip" }, ...items.map((item) => make("li", {}, item)));
  const select = (i, follow = false) => {
    selected = i;
    const wrong = data.predicted[i] !== data.label[i];
    const facts = [["class", classes[data.label[i]]], ["predicted", classes[data.predicted[i]]], ["q(y|x) of it", percent(data.confidence[i])]];
    const list = make("dl", { class: "facts" }, ...facts.map(([name, value], n) =>
      make("div", {}, make("dt", {}, name), make("dd", { class: wrong && n === 1 ? "wrong" : null }, value))));
    const near = (name) => strip(data.near[name][i].map(goTo));
    byId("detail").replaceChildren(
      make("h3", { id: "detail-title" }, data.keys[i] + (i < data.sampled ? "" : " (not among the points of the maps)")),
      make("div", { class: "sides" },
        make("div", { class: "top" }, figure(point(i, 0, "the test example", 10), "x", true),
          figure(point(i, 1, "its reconstruction", 10), "reconstruction", true), list),
        make("div", { class: "strips" },
          make("h4", {}, "Its v with the r of every class"),
          strip(classes.map((name, c) => figure(point(i, 2 + c, `its v with r of ${name}`), name))),
          make("h4", {}, "Nearest in r"), near("r"), make("h4", {}, "Nearest in v"), near("v"))),
    );
    byId("pick").value = i < data.sampled ? String(i) : "";
    byId("said").textContent = `Selected ${data.keys[i]}, class ${about(i)}. Its details are below the maps.`;
    if (rings.r) { ring("r"); ring("v"); }
    if (follow) {
      byId("detail").focus({ preventScroll: true });
      byId("detail").scrollIntoView({ block: "nearest" });
    }
  };

  const legend = () => byId("legend-maps").replaceChildren(...classes.map((name, c) => make("li", {}, swatch(c), name)));
  const picker = () => {
    const groups = classes.map((name, c) => make("optgroup", { label: name }, ...range(data.sampled)
      .filter((i) => data.label[i] === c)
      .map((i) => make("option", { value: i }, data.keys[i] + (data.predicted[i] === c ? "" : ` (${about(i)})`)))));
    byId("pick").replaceChildren(...groups);
  };
  const worst = () => byId("worst")?.replaceChildren(...data.errors.map((i) => {
    const button = goTo(i);
    button.lastChild.replaceChildren(about(i), make("br"), percent(data.confidence[i]));
    return make("li", {}, button);
  }));

  /* ---- what only overflows by chance can be scrolled by keyboard when it does ---- */

  const scrollers = () => {
    for (const element of document.querySelectorAll(".scroll")) {
      const wide = element.scrollWidth > element.clientWidth + 1;
      element.toggleAttribute("tabindex", false);
      if (wide) element.setAttribute("tabindex", "0");
    }
  };
  const contents = () => {
    const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-10% 0px -80% 0px" });
    for (const section of document.querySelectorAll("main section")) watch.observe(section);
  };

  const charts = async () => {
    for (const one of [calibrationChart, riskChart, historyCharts]) {
      await new Promise((next) => setTimeout(next));
      await one();
    }
  };
  const start = async () => {
    await decode();
    picker();
    legend();
    select(0);
    byId("said").textContent = "";
    await Promise.all([labelChart(), drawMaps()]);
    listen("r");
    listen("v");
    swaps();
    if (data.units.length) traversal(0);
    interpolation("both");
    samples();
    worst();
    scrollers();
    contents();
    document.addEventListener("change", (event) => {
      const { name, value, id } = event.target;
      if (name === "projection") { projection = value; drawMaps(); }
      if (name === "unit") traversal(Number(value));
      if (name === "along") interpolation(value);
      if (id === "pick") select(Number(value));
    });
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button.example");
      if (button) select(Number(button.dataset.point), true);
      const lens = event.target.closest("button[data-zoom]");
      if (lens) zoom(lens.dataset.map, Number(lens.dataset.zoom));
    });
    dark.addEventListener("change", () => { legend(); labelChart(); drawMaps(); charts(); swaps(); worst(); select(selected); });
    addEventListener("resize", scrollers);
    addEventListener("scroll", () => {
      if (tip.hidden) return;
      const name = ["r", "v"].find((map) => cursor[map] !== null);
      if (name) showTip(cursor[name], ...places(name)[cursor[name]]);
      else hideTip();
    }, { passive: true });
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
    // What lies further down is drawn when the reader can already do everything above.
    await charts();
    document.documentElement.dataset.drawn = "";
  };
  start();
})();
