"use strict";
(() => {
  const element = (id) => document.getElementById(id);

  // --- theme: as the system says, until a reader says otherwise ----------------------------------------------------

  const root = document.documentElement, theme = element("theme");
  const darkScheme = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (darkScheme.matches ? "dark" : "light")) === "dark";
  const remembered = (act) => { try { return act(localStorage); } catch { return null; } }; // files may have no storage
  function themed(name) {
    if (name) root.dataset.theme = name;
    else delete root.dataset.theme;
    theme.setAttribute("aria-pressed", String(isDark()));
    dispatchEvent(new Event("themechange"));
  }
  theme.addEventListener("click", () => {
    const name = isDark() ? "light" : "dark";
    remembered((store) => store.setItem("domain-gap-theme", name));
    themed(name);
  });
  darkScheme.addEventListener("change", () => themed(root.dataset.theme));
  themed(remembered((store) => store.getItem("domain-gap-theme")));
  let before;
  addEventListener("beforeprint", () => { before = root.dataset.theme; themed("light"); });
  addEventListener("afterprint", () => themed(before));

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
  let enlarged = null;
  function enlarge(button) {
    const image = button.querySelector("img"), large = dialog.querySelector("img");
    enlarged = button;
    large.src = image.src;
    large.alt = image.alt;
    dialog.querySelector("p").textContent = image.alt;
    if (!dialog.open) dialog.showModal();
  }
  for (const button of document.querySelectorAll("button.zoom")) button.addEventListener("click", () => enlarge(button));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => { // to the next picture beside it, shown or folded away
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const beside = [...(enlarged?.closest("article, tr, ul")?.querySelectorAll("button.zoom") ?? [])];
    const next = by && beside[beside.indexOf(enlarged) + by];
    if (next) enlarge(next);
  });

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
