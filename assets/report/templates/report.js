"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(element(id).textContent);
  const { figures, light, dark } = read("figure-data");
  const samples = read("map-data");
  const darkScheme = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  let printing = false;

  // --- plots: drawn when they come into view, in the colours of the theme ------------------------------------------

  const swaps = Object.keys(light).map((name) => [light[name], dark[name]]);
  const triple = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",");

  function inTheme(figure) {
    if (printing || !darkScheme.matches) return JSON.parse(JSON.stringify(figure));
    let text = JSON.stringify(figure);
    for (const [from, to] of swaps) {
      text = text.replaceAll(`"${from}"`, `"${to}"`).replaceAll(`rgba(${triple(from)},`, `rgba(${triple(to)},`);
    }
    return JSON.parse(text);
  }

  function draw(plot) {
    const { data, layout } = inTheme(figures[plot.dataset.figure]);
    const style = getComputedStyle(document.documentElement);
    const [text, line, page, soft] = ["--text", "--line", "--page", "--soft"].map((name) => style.getPropertyValue(name).trim());
    layout.font = { ...layout.font, family: getComputedStyle(document.body).fontFamily, color: text };
    layout.hoverlabel = { bgcolor: page, bordercolor: line, font: { color: text } };
    for (const axis of [layout.xaxis, layout.yaxis]) {
      Object.assign(axis, { gridcolor: line, zerolinecolor: soft, linecolor: line, tickfont: { size: 11, color: soft } });
    }
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: text };
    layout.autosize = true;
    if (printing) layout.width = Math.min(plot.clientWidth, 660);
    const isMap = plot.dataset.figure === "map";
    if (isMap) {
      layout.dragmode = coarse ? false : "pan";
      layout.uirevision = state.projection; // other colours keep the zoom, another projection resets it
      paint(data);
    } else {
      layout.dragmode = false;
      layout.xaxis.fixedrange = layout.yaxis.fixedrange = true;
    }
    Plotly.react(plot, data, layout, {
      displaylogo: false,
      displayModeBar: isMap && !printing,
      modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
      responsive: true,
      doubleClick: isMap ? "reset" : false,
    });
    if (isMap && !plot.dataset.drawn) watch(plot);
    plot.dataset.drawn = "yes";
  }

  const plots = [...document.querySelectorAll(".plot")].filter((plot) => figures[plot.dataset.figure]);
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "300px" });
  plots.forEach((plot) => observer.observe(plot));
  const redraw = () => { plots.filter((plot) => plot.dataset.drawn).forEach(draw); legend(); };
  darkScheme.addEventListener("change", redraw);
  addEventListener("beforeprint", () => { printing = true; plots.filter((plot) => plot.offsetParent).forEach(draw); });
  addEventListener("afterprint", () => { printing = false; redraw(); });

  // --- the latent map: projection, colours, the card with a sample's picture ---------------------------------------

  const cividis = [[0, 32, 76], [49, 68, 107], [102, 104, 112], [149, 143, 120], [202, 185, 105], [255, 233, 69]];
  const groupColours = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#e07b39", "#7a6ff0", "#8c6d4f"];
  const unknown = "#9aa0a8";
  const state = { projection: Object.keys(samples.projections)[0], colour: "set" };

  const decimals = (value, digits = 3) => value === null ? "–" : value.toFixed(digits).replace("-", "−");
  const finite = (name) => samples[name].filter((value) => value !== null).sort((a, b) => a - b);
  const bounds = (name) => {
    const sorted = finite(name);
    if (!sorted.length) return null;
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    return [at(0.02), at(0.98)];
  };
  const ranges = { loss: bounds("loss"), gap_score: bounds("gap_score") };

  function ramp(share) {
    const place = Math.min(Math.max(share, 0), 1) * (cividis.length - 1);
    const low = Math.min(Math.floor(place), cividis.length - 2);
    const mixed = cividis[low].map((value, i) => Math.round(value + (place - low) * (cividis[low + 1][i] - value)));
    return `rgb(${mixed.join(",")})`;
  }

  function colourOf(row) {
    if (state.colour === "group") return groupColours[samples.group[row]] ?? unknown;
    const value = samples[state.colour][row];
    const [low, high] = ranges[state.colour] ?? [0, 1];
    return value === null ? unknown : ramp(high > low ? (value - low) / (high - low) : 0.5);
  }

  function paint(data) {
    const { x, y } = samples.projections[state.projection];
    for (const trace of data) {
      trace.x = trace.customdata.map((row) => x[row]);
      trace.y = trace.customdata.map((row) => y[row]);
      if (state.colour !== "set") trace.marker.color = trace.customdata.map(colourOf);
    }
  }

  function mark(name, colour) {
    const shape = {
      reference: '<circle cx="5" cy="5" r="3.6" fill="none" stroke-width="1.6"/>',
      holdout: '<rect x="1" y="1" width="8" height="8" stroke="none"/>',
      target: '<circle cx="5" cy="5" r="4.4" stroke="none"/>',
    }[name];
    const holder = document.createElement("span");
    holder.className = "key";
    holder.innerHTML = `<svg viewBox="0 0 10 10" aria-hidden="true" style="fill:${colour};stroke:${colour}">${shape}</svg>`;
    return holder;
  }

  function say(parent, text, className = "key") {
    const span = document.createElement("span");
    span.className = className;
    span.textContent = text;
    parent.append(span);
    return span;
  }

  function legend() {
    const list = element("map-legend");
    if (!list) return;
    list.replaceChildren();
    for (const name of ["reference", "holdout", "target"]) {
      const count = samples.set.filter((set) => set === name).length;
      if (!count) continue;
      const key = mark(name, state.colour === "set" ? `var(--${name})` : "currentColor");
      key.append(`${name === "target" ? name : `source ${name}`} (${count.toLocaleString("en")})`);
      list.append(key);
    }
    if (state.colour === "group") {
      samples.groups.slice(0, groupColours.length).forEach((name, i) => {
        const key = mark("holdout", groupColours[i]);
        say(key, name || "no group", "");
        list.append(key);
      });
      const rest = samples.groups.length - groupColours.length;
      if (rest > 0) {
        const key = mark("holdout", unknown);
        key.append(`${rest} smaller ${rest === 1 ? "group" : "groups"}`);
        list.append(key);
      }
    } else if (state.colour !== "set") {
      const range = ranges[state.colour];
      if (range === null) return void say(list, "not defined for any sample");
      const key = say(list, decimals(range[0]));
      say(key, "", "ramp");
      key.append(decimals(range[1]));
      if (samples[state.colour].includes(null)) {
        const none = mark("holdout", unknown);
        none.append(state.colour === "loss" ? "no label" : "not scored");
        list.append(none);
      }
    }
  }

  const sheets = [];
  function thumbnail(row) {
    const tile = samples.tile[row];
    if (tile < 0) return null;
    const cells = samples.columns ** 2;
    const sheet = Math.floor(tile / cells);
    if (!sheets[sheet]) {
      sheets[sheet] = new Image();
      sheets[sheet].src = samples.sheets[sheet];
    }
    const [width, height] = samples.tile_size;
    const scale = 216 / width;
    const cell = tile % cells;
    const image = sheets[sheet];
    image.alt = `Picture of ${samples.id[row]}`;
    image.style.transform = `scale(${scale}) translate(${-(cell % samples.columns) * width}px, ${-Math.floor(cell / samples.columns) * height}px)`;
    return { image, width: 216, height: Math.round(height * scale) };
  }

  function show(plot, row) {
    const card = element("map-card"), ring = element("map-ring"), tile = card.querySelector(".tile");
    const { x, y } = samples.projections[state.projection];
    const { xaxis, yaxis, _size: size } = plot._fullLayout;
    const left = size.l + xaxis.l2p(x[row]), top = size.t + yaxis.l2p(y[row]);
    const picture = thumbnail(row);
    tile.replaceChildren(...(picture ? [picture.image] : []));
    tile.style.cssText = picture ? `width:${picture.width}px;height:${picture.height}px` : "";
    card.querySelector(".id").textContent = samples.id[row];
    const loss = samples.loss[row] === null ? "no label" : `loss ${decimals(samples.loss[row])}`;
    const facts = `${samples.set[row]} · ${loss} · gap score ${decimals(samples.gap_score[row])} · group ${samples.groups[samples.group[row]] || "none"}`;
    card.querySelector(".facts").textContent = facts;
    card.hidden = ring.hidden = false;
    const room = plot.clientWidth;
    card.style.left = `${Math.max(4, left + 14 + card.offsetWidth > room ? Math.min(left - 14, room) - card.offsetWidth : left + 14)}px`;
    card.style.top = `${Math.max(4, Math.min(top - card.offsetHeight / 2, plot.clientHeight - card.offsetHeight - 4))}px`;
    ring.style.left = `${left}px`;
    ring.style.top = `${top}px`;
    return `${samples.id[row]}, ${facts}`;
  }

  const hide = () => { element("map-card").hidden = element("map-ring").hidden = true; };

  function watch(plot) {
    plot.on("plotly_hover", ({ points }) => show(plot, points[0].customdata));
    plot.on("plotly_click", ({ points }) => show(plot, points[0].customdata));
    plot.on("plotly_unhover", hide);
    plot.on("plotly_relayout", hide);
    let place = -1;
    element("map").addEventListener("keydown", (event) => {
      const { x } = samples.projections[state.projection];
      const order = samples.id.map((_, row) => row)
        .filter((row) => samples.set[row] === "target" && x[row] !== null)
        .sort((a, b) => (samples.gap_score[b] ?? -Infinity) - (samples.gap_score[a] ?? -Infinity));
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") return hide();
      if (!step || !order.length) return;
      event.preventDefault();
      place = place < 0 ? (step > 0 ? 0 : order.length - 1) : (place + step + order.length) % order.length;
      element("map-status").textContent = show(plot, order[place]);
    });
    element("map").addEventListener("blur", hide);
  }

  for (const input of document.querySelectorAll(".controls input")) {
    if (input.value in ranges && ranges[input.value] === null) input.disabled = true;
    if (input.checked) state[input.name] = input.value; // browsers keep radio buttons over a reload
    input.addEventListener("change", () => {
      state[input.name] = input.value;
      hide();
      legend();
      draw(document.querySelector('[data-figure="map"]'));
    });
  }
  legend();

  // --- tables: long ones cut; sorting is in tables.js --------------------------------------------------------------

  for (const table of document.querySelectorAll("table.long")) {
    const count = table.tBodies[0].rows.length;
    if (count <= 15) continue;
    table.classList.add("clipped");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet clip";
    const name = () => { button.textContent = table.classList.contains("clipped") ? `Show all ${count}` : "Show the first 15"; };
    button.addEventListener("click", () => { table.classList.toggle("clipped"); name(); });
    name();
    table.parentElement.after(button);
  }

  // --- pictures, copying, where one is -----------------------------------------------------------------------------

  const dialog = element("zoom");
  for (const button of document.querySelectorAll("button.zoom")) {
    button.addEventListener("click", () => {
      const image = button.querySelector("img"), large = dialog.querySelector("img");
      large.src = image.src;
      large.alt = image.alt;
      dialog.querySelector("p").textContent = image.alt;
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  const copy = element("copy-recipe");
  copy?.addEventListener("click", async () => {
    const source = element("recipe-source");
    let copied = true;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      copied = document.execCommand("copy");
    }
    copy.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { copy.textContent = "Copy"; }, 2500);
  });

  const links = new Map([...document.querySelectorAll(".top nav a")].map((link) => [link.hash.slice(1), link]));
  const reader = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  document.querySelectorAll("main > section").forEach((section) => reader.observe(section));

  const openLinked = () => element(location.hash.slice(1))?.closest(".trials tbody")?.querySelector("details").setAttribute("open", "");
  addEventListener("hashchange", openLinked);
  openLinked();
})();
