/* Draws what the data block holds. Names and texts reach the page as text nodes and attributes, never as markup. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data-json").textContent);
  const classes = data.classes;
  const byId = (id) => document.getElementById(id);
  document.body.classList.add(data.kind === "vector" ? "series" : data.kind);  // drawn alike

  /* ---- small parts ---- */

  const make = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "g", "path", "circle"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const range = (n) => [...Array(n).keys()];

  // Colour and shape tell a class, as in the PNG files.
  const hue = (index) => `var(--c${index % data.colours})`;
  const swatch = (index) => make("svg", { class: "mark", viewBox: "0 0 16 16", "aria-hidden": "true" },
    make("path", { d: data.paths[index], style: `fill: ${hue(index)}` }));

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
        svg.append(make("path", { d, style: `stroke: ${hue(channel)}` }));
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
      ...columns.map((name) => make("th", { scope: "col", title: name }, name)));
    const body = rows.map(([name, cells]) => make("tr", {}, make("th", { scope: "row", title: name }, name),
      ...cells.map((content, i) => make("td", { class: i === 0 && columns[0] === "x" ? "first" : null }, content))));
    byId(id).replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  };

  /* Rows: an example of each of some classes, which are there; columns: some classes, whose r its v is decoded with. */
  const swaps = (id, from, to) => {
    const rows = from.map((c) => data.label.indexOf(c)).map((i) => [classes[data.label[i]], [
      point(i, 0, `test example of ${classes[data.label[i]]}`),
      ...to.map((c) => point(i, 2 + c, `its v with r of ${classes[c]}`)),
    ]]);
    table(id, ["x", ...to.map((c) => classes[c])], rows, "class of x, by class of r");
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

  /* ---- maps ---- */

  const tip = byId("tip");
  let selected = null;
  let projection = "tsne";
  const cursor = { r: null, v: null };
  const about = (i) => {
    const wrong = data.predicted[i] !== data.label[i];
    return `${classes[data.label[i]]}${wrong ? `, taken for ${classes[data.predicted[i]]}` : ""}`;
  };
  const maps = {};
  const span = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = 0.04 * (high - low) || 1;
    return [low - room, high + room];
  };
  const whole = (name) => [0, 1].map((side) => span(data.maps[name][projection].map((at) => at[side])));
  const drawMap = (name) => {
    const marks = range(data.sampled).map((i) => make("path", { d: data.paths[data.label[i]], style: `fill: ${hue(data.label[i])}`, "fill-opacity": 0.82 }));
    const rings = make("g", {});
    byId(`map-${name}`).replaceChildren(make("svg", { "aria-hidden": "true" }, ...marks, rings));
    const shares = data.maps[name].explained.map((share) => `${share} %`).join(" and ");
    byId(`axes-${name}`).textContent = projection === "pca" ? `${shares} of the variance` : "";
    maps[name] = { marks, rings, shown: whole(name) };
    arrange(name);
  };
  /* Where the points of a map are in it, in pixels. */
  const positions = (name) => {
    const { clientWidth: width, clientHeight: height } = byId(`map-${name}`);
    const [[left, right], [low, high]] = maps[name].shown;
    return data.maps[name][projection].map(([x, y]) => [width * (x - left) / (right - left), height * (high - y) / (high - low)]);
  };
  const arrange = (name) => {
    positions(name).forEach(([x, y], i) => maps[name].marks[i].setAttribute("transform", `translate(${x - 8} ${y - 8})`));
    ring(name);
  };
  /* Marks the neighbours, the selected point, and where the keyboard is. */
  const ring = (name) => {
    const at = positions(name);
    const circle = (r, width, style) => (i) => make("circle", { class: "ring", cx: at[i][0], cy: at[i][1], r, "stroke-width": width, style });
    const here = (list) => list.filter((i) => i !== null && i < data.sampled);
    maps[name].rings.replaceChildren(
      ...here(data.near[name][selected] ?? []).map(circle(8, 1.4)),
      ...here([selected]).map(circle(11, 3)), ...here([cursor[name]]).map(circle(9, 2.6, "stroke: var(--r)")));
  };
  const drawMaps = () => ["r", "v"].forEach(drawMap);
  const places = (name) => {
    const box = byId(`map-${name}`).firstChild.getBoundingClientRect();
    return positions(name).map(([x, y]) => [box.left + x, box.top + y]);
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
    tip.replaceChildren(point(i, 0, "test example"), make("div", {}, about(i)), make("div", {}, data.confidence[i]));
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
    const at = data.maps[name][projection][cursor[name] ?? (selected !== null && selected < data.sampled ? selected : 0)];
    maps[name].shown = whole(name).map(([low, high], side) => {
      const [from, to] = maps[name].shown[side];
      const width = factor ? Math.min(high - low, factor * (to - from)) : high - low;
      const start = Math.max(low, Math.min(high - width, at[side] - width / 2));
      return [start, start + width];
    });
    arrange(name);
    hideTip();
  };
  const move = (name, i) => {
    cursor[name] = i;
    // A point outside the part that is shown is brought into it.
    if (maps[name].shown.some(([low, high], side) => !(low <= data.maps[name][projection][i][side] && data.maps[name][projection][i][side] <= high))) zoom(name, 1);
    ring(name);
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
      if (i !== null) select(i, places(name)[i]);
    });
    element.addEventListener("keydown", (event) => {
      const start = cursor[name] ?? (selected !== null && selected < data.sampled ? selected : 0);
      if (event.key in ARROWS) move(name, cursor[name] === null ? start : towards(name, start, ARROWS[event.key]));
      else if (event.key === "Home") move(name, 0);
      else if (event.key === "End") move(name, data.sampled - 1);
      else if (event.key === "Enter" || event.key === " ") select(start, places(name)[start]);
      else if (event.key === "+" || event.key === "=") zoom(name, 0.5);
      else if (event.key === "-") zoom(name, 2);
      else if (event.key === "0") zoom(name, 0);
      else if (event.key === "Escape") hideTip();
      else return;
      event.preventDefault();
    });
    element.addEventListener("blur", () => { cursor[name] = null; hideTip(); ring(name); });
  };

  /* ---- detail of a point, beside it ---- */

  const detail = byId("detail");
  const figure = (content, name, big = false) => make("figure", { class: big ? "big" : null }, content, make("figcaption", {}, name));
  const goTo = (i) => make("button", { type: "button", class: "example", "data-point": i },
    point(i, 0, `test example ${data.keys[i]}`, 4), make("span", { class: "name" }, about(i)));
  const strip = (items) => make("ul", { class: "strip" }, ...items.map((item) => make("li", {}, item)));
  const fill = (i) => {
    const wrong = data.predicted[i] !== data.label[i];
    const facts = [["class", classes[data.label[i]]], ["predicted", classes[data.predicted[i]]], ["q(y|x) of it", data.confidence[i]]];
    const list = make("dl", {}, ...facts.map(([name, value], n) =>
      make("div", {}, make("dt", {}, name), make("dd", { class: wrong && n === 1 ? "wrong" : null }, value))));
    detail.replaceChildren(
      make("button", { type: "button", class: "close", popovertarget: "detail", popovertargetaction: "hide" }, "Close"),
      make("h3", { id: "detail-title" }, data.keys[i] + (i < data.sampled ? "" : " (on no map)")),
      make("div", { class: "top" }, figure(point(i, 0, "the test example", 10), "x", true),
        figure(point(i, 1, "its reconstruction", 10), "reconstruction", true), list),
      make("h4", {}, "Its v with the r of every class"),
      strip(classes.map((name, c) => figure(point(i, 2 + c, `its v with r of ${name}`), name))),
      ...["r", "v"].flatMap((name) => [make("h4", {}, `Nearest in ${name}`), strip(data.near[name][i].map(goTo))]));
  };
  /* Beside a point of the screen, below it where there is no room, and on the screen as a whole. */
  const place = ([x, y]) => {
    const { width, height } = detail.getBoundingClientRect();
    const side = x + 16 + width < innerWidth ? x + 16 : x - 16 - width;
    const [left, top] = side > 4 ? [side, Math.max(48, Math.min(y - 40, innerHeight - height - 8))] : [(innerWidth - width) / 2, y + 16];
    detail.style.left = `${left + scrollX}px`;
    detail.style.top = `${top + scrollY}px`;
    detail.scrollIntoView({ block: "nearest", behavior: "instant" });
  };
  const select = (i, at) => {
    selected = i;
    fill(i);
    byId("pick").value = i < data.sampled ? String(i) : "";
    byId("said").textContent = `Selected ${data.keys[i]}, class ${about(i)}.`;
    ring("r");
    ring("v");
    hideTip();
    if (!detail.matches(":popover-open")) detail.showPopover();
    if (at) place(at);
    detail.focus({ preventScroll: true });
  };
  const corner = (element) => {
    const box = element.getBoundingClientRect();
    return [box.left + box.width / 2, box.bottom];
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
    button.lastChild.replaceChildren(about(i), make("br"), data.confidence[i]);
    return make("li", {}, button);
  }));

  /* ---- what only overflows by chance can be scrolled by keyboard when it does ---- */

  const scrollers = () => {
    for (const element of document.querySelectorAll(".scroll")) {
      const wide = element.scrollWidth > element.clientWidth || element.scrollHeight > element.clientHeight;
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

  const start = async () => {
    await decode();
    picker();
    legend();
    const every = range(classes.length);
    const there = every.filter((c) => data.label.slice(0, data.sampled).includes(c));
    swaps("grid-first", [...new Set([0, 1, 2].map((third) => there[Math.floor(third * there.length / 3)]))], every.length > 12 ? there.slice(0, 10) : every);
    drawMaps();
    ["r", "v"].forEach(listen);
    // A row for each of very many classes would be slow to draw, and no more telling.
    swaps("grid-swap", there.slice(0, 20), every);
    if (data.units.length) traversal(0);
    if (data.pairs.length) interpolation("both");
    samples();
    worst();
    scrollers();
    contents();
    document.addEventListener("change", (event) => {
      const { name, value, id } = event.target;
      if (name === "projection") { projection = value; drawMaps(); }
      if (id === "unit") traversal(Number(value));
      if (id === "along") interpolation(value);
      if (id === "pick") select(Number(value), corner(event.target));
    });
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button.example");
      if (button) select(Number(button.dataset.point), detail.contains(button) ? null : corner(button));
      const lens = event.target.closest("button[data-zoom]");
      if (lens) zoom(lens.dataset.map, Number(lens.dataset.zoom));
    });
    addEventListener("resize", () => { scrollers(); ["r", "v"].forEach(arrange); });
    addEventListener("scroll", () => {
      if (tip.hidden) return;
      const name = ["r", "v"].find((map) => cursor[map] !== null);
      if (name) showTip(cursor[name], ...places(name)[cursor[name]]);
      else hideTip();
    }, { passive: true });
    document.documentElement.dataset.drawn = String(Math.round(performance.now()));
  };
  start();
})();
