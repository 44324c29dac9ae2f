"use strict";
(() => {
  // --- tables: sorting by the buttons of their heads ---------------------------------------------------------------

  const collator = new Intl.Collator("en", { numeric: true });
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    table.querySelectorAll("thead th").forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const numeric = head.classList.contains("num");
        const first = numeric ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? (numeric ? "ascending" : "descending") : first;
        table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const key = (row) => row.cells[column].dataset.value;
        const compare = (a, b) => {
          if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === ""); // what is not defined stays last
          return sign * (numeric ? Number(key(a)) - Number(key(b)) : collator.compare(key(a), key(b)));
        };
        body.append(...[...body.rows].sort(compare));
      });
    });
  }
})();
