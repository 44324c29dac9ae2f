"use strict";
(() => {
  const root = document.getElementById("explorer");
  if (!root) return;
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const element = (id) => document.getElementById(id);
  const canvas = element("map"), stage = canvas.parentElement, card = element("map-card");
  const pen = canvas.getContext("2d");
  const count = data.id.length;
  const sets = ["reference", "holdout", "target"];
  const NOTHING = 65535, STEPS = 65534;
  const coarse = matchMedia("(pointer: coarse)").matches;

  // --- columns: packed as 16-bit steps, unpacked when they are asked for -------------------------------------------

  function unpack({ low, high, data: text }) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const steps = new DataView(bytes.buffer);
    return Float64Array.from({ length: bytes.length / 2 }, (_, i) => {
      const step = steps.getUint16(2 * i, true);
      return step === NOTHING ? NaN : low + (step / STEPS) * (high - low);
    });
  }
  const kept = new Map();
  function once(key, make) {
    if (!kept.has(key)) kept.set(key, make());
    return kept.get(key);
  }
  const columns = new Map(data.columns.map((column) => [column.key, column]));
  const measured = (key) => columns.has(key) ? once(`column ${key}`, () => unpack(columns.get(key))) : null;
  const places = (key) => {
    const view = key.startsWith("region ") ? data.regions[Number(key.slice(7))] : data.views[key];
    return once(`view ${key}`, () => ({ x: unpack(view.x), y: unpack(view.y) }));
  };
  const experiment = () => state.after === "" ? null : data.after[Number(state.after)];
  const moved = () => {
    const found = experiment();
    return found && once(`after ${state.after}`, () => ({ rows: found.rows, x: unpack(found.x), y: unpack(found.y), loss: unpack(found.loss) }));
  };

  // --- state -------------------------------------------------------------------------------------------------------

  const fields = { view: element("map-view"), colour: element("map-colour"), size: element("map-size"), after: element("map-after") };
  const state = { tool: coarse ? "look" : "lasso", when: "before" };
  const hidden = new Set();
  const selected = new Uint8Array(count);
  let shown, zoom = { scale: 1, x: 0, y: 0 }, ring = -1, trail = null;

  function readFields() {
    for (const [name, field] of Object.entries(fields)) state[name] = field ? field.value : "";
    for (const input of root.querySelectorAll("input[type=radio]")) if (input.checked) state[input.name.replace("map-", "")] = input.value;
  }

  /** Places, colours and sizes of every point under the chosen view. */
  function arrange() {
    const { x, y } = places(state.view);
    const change = state.view === "pca" ? moved() : null;
    const after = change && state.when === "after";
    shown = { x, y, before: null };
    if (after) {
      shown = { x: x.slice(), y: y.slice(), before: { x, y, rows: change.rows } };
      change.rows.forEach((row, i) => { shown.x[row] = change.x[i]; shown.y[row] = change.y[i]; });
    }
    const xs = [...x, ...(change?.x ?? [])].filter(Number.isFinite), ys = [...y, ...(change?.y ?? [])].filter(Number.isFinite);
    shown.bounds = { left: Math.min(...xs), right: Math.max(...xs), top: Math.max(...ys), bottom: Math.min(...ys) };
    shown.values = valuesOf(state.colour, after);
    shown.range = rangeOf(shown.values, state.colour === "change");
    shown.radii = radiiOf(after);
  }

  function valuesOf(key, after) {
    if (key === "set" || key === "group") return null;
    const change = moved(), loss = measured("loss");
    if (key === "change") {
      const values = new Float64Array(count).fill(NaN);
      change?.rows.forEach((row, i) => { values[row] = change.loss[i] - (loss?.[row] ?? NaN); });
      return values;
    }
    const values = measured(key);
    if (key !== "loss" || !after) return values;
    const then = values.slice();
    change.rows.forEach((row, i) => { then[row] = change.loss[i]; });
    return then;
  }

  function rangeOf(values, around) {
    if (!values) return null;
    const sorted = [...values].filter(Number.isFinite).sort((a, b) => a - b);
    if (!sorted.length) return null;
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    const [low, high] = [at(0.02), at(0.98)];
    const most = Math.max(Math.abs(low), Math.abs(high));
    return around ? [-most, most] : [low, high];
  }

  function radiiOf(after) {
    const plain = count > 1500 ? 3 : 4.2;
    if (!state.size) return new Float64Array(count).fill(plain);
    const values = valuesOf(state.size, after), range = rangeOf(values);
    return Float64Array.from(values, (value) => Number.isFinite(value) && range ? 2 + 6 * share(value, range) : 1.5);
  }

  // --- colours -----------------------------------------------------------------------------------------------------

  const cividis = [[0, 32, 76], [49, 68, 107], [102, 104, 112], [149, 143, 120], [202, 185, 105], [255, 233, 69]];
  const onDark = [[74, 104, 178], [92, 120, 160], [120, 132, 140], [163, 158, 128], [208, 192, 110], [255, 233, 69]];
  const better = [[29, 95, 174], [150, 180, 215], [190, 190, 190], [230, 165, 120], [194, 65, 12]];
  const groupColours = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#e07b39", "#7a6ff0", "#8c6d4f"];
  const unknown = "#9aa0a8";
  const share = (value, [low, high]) => high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0.5;
  const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function ramp(part, stops) {
    const place = part * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return `rgb(${stops[low].map((value, i) => Math.round(value + (place - low) * (stops[low + 1][i] - value))).join(",")})`;
  }
  function colourOf(row, own) {
    if (state.colour === "set") return own[data.set[row]];
    if (state.colour === "group") return groupColours[data.group[row]] ?? unknown;
    const value = shown.values?.[row];
    if (!Number.isFinite(value) || !shown.range) return unknown;
    return ramp(share(value, shown.range), state.colour === "change" ? better : shown.ramp);
  }

  // --- drawing -----------------------------------------------------------------------------------------------------

  const visible = (row) => Number.isFinite(shown.x[row]) && !hidden.has(data.set[row]);
  function onScreen(x, y) {
    const { left, right, top, bottom } = shown.bounds, margin = 24;
    const width = stage.clientWidth - 2 * margin, height = stage.clientHeight - 2 * margin;
    const unit = Math.min(width / (right - left || 1), height / (top - bottom || 1));
    const centre = [(left + right) / 2, (top + bottom) / 2];
    return [
      stage.clientWidth / 2 + (x - centre[0]) * unit * zoom.scale + zoom.x,
      stage.clientHeight / 2 - (y - centre[1]) * unit * zoom.scale + zoom.y,
    ];
  }

  function draw() {
    const density = devicePixelRatio || 1, width = stage.clientWidth, height = stage.clientHeight;
    if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
    }
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    shown.ramp = theme("--ramp") === "bright" ? onDark : cividis; // its dark end would be lost on a dark ground
    const own = sets.map((name) => theme(`--${name}`)), any = selected.includes(1);
    if (shown.before) drawMoves();
    for (const phase of any ? [0, 1] : [0]) {
      for (let row = 0; row < count; row++) {
        if (!visible(row) || (any && selected[row] !== phase)) continue;
        pen.globalAlpha = any && !phase ? 0.13 : data.set[row] === 0 ? 0.6 : 0.82;
        drawPoint(row, colourOf(row, own));
      }
    }
    pen.globalAlpha = 1;
    if (ring >= 0 && visible(ring)) {
      const [x, y] = onScreen(shown.x[ring], shown.y[ring]);
      pen.strokeStyle = theme("--text");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x, y, 9, 0, 7);
      pen.stroke();
    }
    if (trail) drawTrail();
  }

  function drawPoint(row, colour) {
    const [x, y] = onScreen(shown.x[row], shown.y[row]), radius = shown.radii[row];
    pen.fillStyle = pen.strokeStyle = colour;
    if (data.set[row] === 1) return pen.fillRect(x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    if (data.set[row] === 2) return pen.fill();
    pen.lineWidth = 1.3;
    pen.stroke();
  }

  function drawMoves() {
    pen.strokeStyle = theme("--soft");
    pen.globalAlpha = 0.35;
    pen.lineWidth = 1;
    pen.beginPath();
    for (const row of shown.before.rows) {
      if (!visible(row)) continue;
      pen.moveTo(...onScreen(shown.before.x[row], shown.before.y[row]));
      pen.lineTo(...onScreen(shown.x[row], shown.y[row]));
    }
    pen.stroke();
  }

  function drawTrail() {
    pen.strokeStyle = theme("--accent");
    pen.fillStyle = pen.strokeStyle;
    pen.lineWidth = 1.5;
    pen.beginPath();
    outline().forEach(([x, y], i) => i ? pen.lineTo(x, y) : pen.moveTo(x, y));
    pen.closePath();
    pen.stroke();
    pen.globalAlpha = 0.1;
    pen.fill();
    pen.globalAlpha = 1;
  }
  function outline() {
    if (state.tool === "lasso") return trail;
    const [[x1, y1], [x2, y2]] = [trail[0], trail[trail.length - 1]];
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];
  }

  let asked = false;
  function redraw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }

  // --- words -------------------------------------------------------------------------------------------------------

  const decimals = (value, digits = 3) => Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–";
  const compact = (value) => {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    const text = value !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
    return text.replace("-", "−");
  };
  const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const lossName = data.estimated ? "estimated loss" : "loss";
  function make(tag, { text = "", name = "", ...rest } = {}) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.textContent = text;
    return Object.assign(made, rest);
  }
  function mark(set, colour) {
    const shape = { 0: '<circle cx="5" cy="5" r="3.6" fill="none" stroke-width="1.6"/>', 1: '<rect x="1" y="1" width="8" height="8" stroke="none"/>', 2: '<circle cx="5" cy="5" r="4.4" stroke="none"/>' }[set];
    const holder = make("span", { name: "key" });
    holder.innerHTML = `<svg viewBox="0 0 10 10" aria-hidden="true">${shape}</svg>`;
    holder.firstChild.style.fill = holder.firstChild.style.stroke = colour;
    return holder;
  }

  function legend() {
    const list = element("map-legend");
    list.replaceChildren();
    sets.forEach((name, code) => {
      const number = data.set.filter((set) => set === code).length;
      if (!number) return;
      const button = make("button", { type: "button", name: "key toggle", title: "Show or hide this set" });
      button.append(mark(code, state.colour === "set" ? `var(--${name})` : "currentColor"), `${name === "target" ? name : `source ${name}`} (${number.toLocaleString("en")})`);
      button.setAttribute("aria-pressed", String(!hidden.has(code)));
      button.addEventListener("click", () => {
        if (!hidden.delete(code)) hidden.add(code);
        button.setAttribute("aria-pressed", String(!hidden.has(code)));
        hide();
        redraw();
      });
      list.append(button);
    });
    if (state.colour === "group") legendOfGroups(list);
    else if (state.colour !== "set") legendOfValues(list);
  }
  function legendOfGroups(list) {
    data.groups.slice(0, groupColours.length).forEach((name, i) => {
      const key = mark(1, groupColours[i]);
      key.append(make("span", { text: name || "no group" }));
      list.append(key);
    });
    const rest = data.groups.length - groupColours.length;
    if (rest > 0) {
      const key = mark(1, unknown);
      key.append(`${rest} smaller ${rest === 1 ? "group" : "groups"}`);
      list.append(key);
    }
  }
  function legendOfValues(list) {
    if (!shown.range) return list.append(make("span", { text: state.colour === "change" ? "choose an experiment: the change of its samples’ loss" : "not defined for any sample" }));
    const key = make("span", { name: "key", text: compact(shown.range[0]) });
    key.append(make("span", { name: state.colour === "change" ? "ramp change" : "ramp" }), compact(shown.range[1]));
    list.append(key);
    if (shown.values.some((value) => !Number.isFinite(value))) {
      const none = mark(1, unknown);
      none.append(state.colour === "loss" ? "no label" : state.colour === "change" ? "not in the experiment" : "not measured");
      list.append(none);
    }
  }

  // --- pictures ----------------------------------------------------------------------------------------------------

  const sheets = [];
  function sheet(number) {
    sheets[number] ??= (() => {
      const image = new Image();
      image.src = data.sheets[number];
      return { image, ready: image.decode() };
    })();
    return sheets[number];
  }
  /** A sample's thumbnail as a canvas, drawn once its sheet is decoded; null where it has none. */
  function thumbnail(row, width) {
    const tile = data.tile[row];
    if (tile < 0) return null;
    const cells = data.sheet_columns ** 2, [w, h] = data.tile_size, cell = tile % cells;
    const made = make("canvas", { width: 2 * width, height: Math.round((2 * width * h) / w) });
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", `Picture of ${data.id[row]}`);
    const { image, ready } = sheet(Math.floor(tile / cells));
    ready.then(() => {
      const at = [(cell % data.sheet_columns) * w, Math.floor(cell / data.sheet_columns) * h];
      made.getContext("2d").drawImage(image, ...at, w, h, 0, 0, made.width, made.height);
      made.dataset.drawn = "yes";
    }, () => {});
    return made;
  }

  function facts(row) {
    const loss = measured("loss")?.[row], score = measured("gap_score")?.[row], change = moved();
    const place = change ? change.rows.indexOf(row) : -1;
    const said = [sets[data.set[row]], Number.isFinite(loss) ? `${lossName} ${decimals(loss)}` : "no label"];
    if (place >= 0) said.push(`${decimals(change.loss[place])} after ${experiment().title}`);
    if (Number.isFinite(score)) said.push(`gap score ${decimals(score)}`);
    for (const key of new Set([state.colour, state.size])) {
      if (columns.has(key) && !["loss", "gap_score"].includes(key)) said.push(`${columns.get(key).label} ${compact(measured(key)[row])}`);
    }
    said.push(`group ${data.groups[data.group[row]] || "none"}`);
    return said.join(" · ");
  }

  function show(row) {
    ring = row;
    card.querySelector(".tile").replaceChildren(...[thumbnail(row, 216)].filter(Boolean));
    card.querySelector(".id").textContent = data.id[row];
    card.querySelector(".facts").textContent = facts(row);
    card.hidden = false;
    const [x, y] = onScreen(shown.x[row], shown.y[row]), room = stage.clientWidth;
    const left = x + 14 + card.offsetWidth > room ? Math.min(x - 14, room) - card.offsetWidth : x + 14;
    card.style.left = `${Math.max(4, left)}px`;
    card.style.top = `${Math.max(4, Math.min(y - card.offsetHeight / 2, stage.clientHeight - card.offsetHeight - 4))}px`;
    redraw();
    return `${data.id[row]}, ${facts(row)}`;
  }
  function hide() {
    ring = -1;
    card.hidden = true;
    redraw();
  }

  // --- selection ---------------------------------------------------------------------------------------------------

  const rowsOf = (wanted) => data.id.map((_, row) => row).filter(wanted);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  function select(rows, add = element("map-add").checked) {
    if (!add) selected.fill(0);
    for (const row of rows) selected[row] = 1;
    tellSelection();
    redraw();
  }

  function tellSelection() {
    const panel = element("selection"), rows = rowsOf((row) => selected[row]);
    panel.hidden = !rows.length;
    element("map-status").textContent = rows.length ? `${plural(rows.length, "sample")} selected` : "Nothing is selected";
    if (!rows.length) return;
    const { others, name: held } = othersOf(rows), apart = whatSetsApart(rows, others);
    const parts = sets.map((name, code) => [name, rows.filter((row) => data.set[row] === code).length]).filter(([, number]) => number);
    panel.querySelector("h4").textContent = `${plural(rows.length, "sample")} selected: ${parts.map(([name, number]) => `${number.toLocaleString("en")} ${name}`).join(", ")}`;
    panel.querySelector(".said").textContent = [lossesSaid(rows, others, held), groupsSaid(rows)].filter(Boolean).join(" ");
    panel.querySelector(".apart-title").textContent = `What sets them apart from ${held} shown:`;
    panel.querySelector(".apart").replaceChildren(...apart.map(({ label, distance }) => make("li", { text: `${label} ${distance > 0 ? "+" : "−"}${Math.abs(distance).toFixed(1)} sd` })));
    panel.querySelector(".apart-title").hidden = !apart.length;
    const loss = measured("loss");
    const order = rows.slice().sort((a, b) => (loss?.[b] || 0) - (loss?.[a] || 0)).slice(0, 48);
    panel.querySelector(".first").hidden = rows.length <= order.length;
    panel.querySelector(".tiles").replaceChildren(...order.map(tileOf));
  }

  function lossesSaid(rows, rest, held) {
    const loss = measured("loss");
    const [own, others] = [rows, rest].map((some) => some.map((row) => loss?.[row]).filter(Number.isFinite));
    if (!own.length) return "";
    return `Mean ${lossName} ${decimals(mean(own))}${others.length ? `; ${decimals(mean(others))} over ${held} shown` : ""}.`;
  }
  function groupsSaid(rows) {
    const sizes = new Map();
    rows.forEach((row) => sizes.set(data.group[row], (sizes.get(data.group[row]) ?? 0) + 1));
    const top = [...sizes].sort((a, b) => b[1] - a[1]).slice(0, 3).map(([group, number]) => `${data.groups[group] || "no group"} (${number})`);
    return `${plural(sizes.size, "group")}: ${top.join(", ")}${sizes.size > 3 ? ", …" : ""}.`;
  }
  /** The samples that a selection is held against: the others of its set, or all others where it has none. */
  function othersOf(rows) {
    const code = data.set[rows[0]], same = rows.every((row) => data.set[row] === code);
    const own = same ? rowsOf((row) => !selected[row] && data.set[row] === code) : [];
    return own.length ? { others: own, name: `the other ${sets[code]} samples` } : { others: rowsOf((row) => !selected[row]), name: "all other samples" };
  }
  /** Traits whose mean over the selection is farthest from that of others, in the others' deviations. */
  function whatSetsApart(rows, rest) {
    const found = [];
    for (const { key, label } of data.columns) {
      if (key === "loss" || key === "gap_score") continue;
      const values = measured(key);
      const own = rows.map((row) => values[row]).filter(Number.isFinite);
      const others = rest.map((row) => values[row]).filter(Number.isFinite);
      if (!own.length || others.length < 3) continue;
      const middle = mean(others), spread = Math.sqrt(mean(others.map((value) => (value - middle) ** 2)));
      if (spread > 0) found.push({ label, distance: (mean(own) - middle) / spread });
    }
    return found.sort((a, b) => Math.abs(b.distance) - Math.abs(a.distance)).slice(0, 5);
  }

  function tileOf(row) {
    const item = make("li"), button = make("button", { type: "button", title: data.id[row] });
    const loss = measured("loss")?.[row];
    button.append(thumbnail(row, 104) ?? make("span", { name: "blank", text: "no picture" }));
    button.append(make("span", { name: "cut", text: data.id[row] }), make("span", { name: "soft", text: Number.isFinite(loss) ? `${lossName} ${decimals(loss)}` : "no label" }));
    button.addEventListener("click", () => { element("map-status").textContent = show(row); });
    item.append(button);
    return item;
  }

  // A spreadsheet would run a text that begins so as a formula.
  const csvCell = (value) => {
    const text = String(value), safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  function csv() {
    const numbers = data.columns.map(({ key }) => measured(key));
    const lines = rowsOf((row) => selected[row]).map((row) => [
      sets[data.set[row]], data.id[row], data.groups[data.group[row]], ...numbers.map((values) => Number.isFinite(values[row]) ? Number(values[row].toPrecision(5)) : ""),
    ]);
    return [["set", "sample_id", "group", ...data.columns.map(({ key }) => key)], ...lines].map((cells) => cells.map(csvCell).join(",")).join("\r\n") + "\r\n";
  }
  element("selection-save").addEventListener("click", () => {
    const link = make("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: "selection.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  element("selection-clear").addEventListener("click", () => { select([], false); canvas.focus(); });

  // --- hands -------------------------------------------------------------------------------------------------------

  function nearest([x, y], reach = 14) {
    let best = -1, least = reach ** 2;
    for (let row = 0; row < count; row++) {
      if (!visible(row)) continue;
      const [px, py] = onScreen(shown.x[row], shown.y[row]), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance <= least) [best, least] = [row, distance];
    }
    return best;
  }
  function inside([x, y], corners) {
    let within = false;
    for (let i = 0, j = corners.length - 1; i < corners.length; j = i++) {
      const [xi, yi] = corners[i], [xj, yj] = corners[j];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
    }
    return within;
  }
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || state.tool === "look") return;
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
    trail = state.tool === "move" ? null : [last];
    hide();
  });
  canvas.addEventListener("pointermove", (event) => {
    const place = at(event);
    if (!last) {
      const row = nearest(place);
      if (row >= 0) show(row);
      else if (ring >= 0) hide();
      return;
    }
    if (trail) trail.push(place);
    else zoom = { ...zoom, x: zoom.x + place[0] - last[0], y: zoom.y + place[1] - last[1] };
    last = place;
    redraw();
  });
  canvas.addEventListener("pointerup", (event) => {
    const path = trail, add = event.shiftKey || element("map-add").checked;
    if (path && path.length) {
      const far = path.some(([x, y]) => Math.hypot(x - path[0][0], y - path[0][1]) > 5);
      const corners = far ? outline() : null;
      trail = null;
      if (corners) select(rowsOf((row) => visible(row) && inside(onScreen(shown.x[row], shown.y[row]), corners)), add);
      else {
        const row = nearest(path[0]);
        if (row >= 0) select([row], add);
        else if (!add) select([], false);
        if (row >= 0) show(row);
      }
    }
    last = trail = null;
    redraw();
  });
  canvas.addEventListener("pointercancel", () => { last = trail = null; redraw(); });
  canvas.addEventListener("pointerleave", () => { if (!last && document.activeElement !== canvas) hide(); });
  canvas.addEventListener("click", (event) => {
    if (state.tool !== "look") return;
    const row = nearest(at(event), 22);
    if (row >= 0) element("map-status").textContent = show(row);
  });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the page
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), at(event));
  }, { passive: false });

  function zoomBy(factor, [x, y] = [stage.clientWidth / 2, stage.clientHeight / 2]) {
    const scale = Math.min(Math.max(zoom.scale * factor, 0.5), 60), ratio = scale / zoom.scale;
    const from = [x - stage.clientWidth / 2, y - stage.clientHeight / 2];
    zoom = { scale, x: from[0] - (from[0] - zoom.x) * ratio, y: from[1] - (from[1] - zoom.y) * ratio };
    hide();
  }
  const zooms = { "zoom-in": () => zoomBy(1.5), "zoom-out": () => zoomBy(1 / 1.5), "zoom-all": () => { zoom = { scale: 1, x: 0, y: 0 }; hide(); } };
  for (const [id, act] of Object.entries(zooms)) element(id).addEventListener("click", act);

  let step = -1;
  canvas.addEventListener("keydown", (event) => {
    const score = measured("gap_score");
    const order = rowsOf((row) => data.set[row] === 2 && visible(row)).sort((a, b) => (score?.[b] || 0) - (score?.[a] || 0));
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const acts = {
      Escape: () => { hide(); select([], false); },
      "+": zooms["zoom-in"], "-": zooms["zoom-out"], 0: zooms["zoom-all"],
      Enter: toggle, " ": toggle,
    };
    if (!by && !acts[event.key]) return;
    event.preventDefault();
    if (acts[event.key]) return acts[event.key]();
    if (!order.length) return;
    step = step < 0 ? (by > 0 ? 0 : order.length - 1) : (step + by + order.length) % order.length;
    element("map-status").textContent = show(order[step]);
  });
  function toggle() {
    if (ring < 0) return;
    selected[ring] = 1 - selected[ring];
    const row = ring;
    tellSelection();
    element("map-status").textContent = `${data.id[row]} ${selected[row] ? "selected" : "no longer selected"}`;
    redraw();
  }
  canvas.addEventListener("blur", hide);

  // --- fields ------------------------------------------------------------------------------------------------------

  function update() {
    readFields();
    const found = experiment();
    if (fields.after) element("map-when").hidden = !found;
    if (found && state.view !== "pca") {
      fields.view.value = state.view = "pca"; // the only view into which new latents can be laid
      zoom = { scale: 1, x: 0, y: 0 };
    }
    if (!found && state.colour === "change") fields.colour.value = state.colour = "set";
    fields.colour.querySelector('[value="change"]').disabled = !found;
    root.querySelector(".about-after").textContent = found
      ? `${found.title} (${found.verdict}): ${plural(found.rows.length, "sample")} of the report halves as the model sees them afterwards; lines lead from where they were.`
      : "";
    canvas.style.touchAction = state.tool === "look" ? "pan-y" : "none";
    canvas.style.cursor = { look: "default", move: "grab" }[state.tool] ?? "crosshair";
    arrange();
    legend();
    hide();
  }
  for (const field of root.querySelectorAll("select, input")) {
    field.addEventListener("change", () => {
      if (field === fields.view) {
        zoom = { scale: 1, x: 0, y: 0 };
        if (field.value !== "pca" && fields.after) fields.after.value = "";
      }
      if (field === fields.after && field.value !== "") root.querySelector("input[value=after]").checked = true;
      if (field.id === "map-preset") {
        if (field.value !== "") select(data.presets[Number(field.value)].rows);
        field.value = "";
      } else update();
    });
  }
  root.querySelector(`input[name="map-tool"][value="${state.tool}"]`).checked = true;
  new ResizeObserver(() => { hide(); }).observe(stage);
  addEventListener("themechange", draw); // at once: paper does not wait for a frame
  update();
})();
