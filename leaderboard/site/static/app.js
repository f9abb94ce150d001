// Sorting, keys, choosing two runs, and the filters of pages that were written as files. Text is only ever set as text.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  // -- sorting: a header's button sorts its table by the data-sort of its column --
  function sort(header) {
    const table = header.closest("table"), column = header.cellIndex;
    const first = header.dataset.first || "descending";
    const other = first === "descending" ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    for (const th of all("th[aria-sort]", table)) th.setAttribute("aria-sort", th === header ? order : "none");
    const key = (row) => row.cells[column].dataset.sort ?? "";
    const numeric = header.dataset.kind !== "text";
    const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, key: key(row) }));
    rows.sort((a, b) => {
      if ((a.key === "") !== (b.key === "")) return a.key === "" ? 1 : -1;  // what is not known stays at the end
      const by = numeric ? Number(a.key) - Number(b.key) : a.key.localeCompare(b.key, "en", { numeric: true });
      return (order === "ascending" ? by : -by) || a.place - b.place;
    });
    table.tBodies[0].append(...rows.map((r) => r.row));
  }
  for (const button of all("th[aria-sort] button")) button.addEventListener("click", () => sort(button.closest("th")));

  // -- two runs of one table, compared --
  for (const form of all("form[data-compare]")) {
    const boxes = all("input[type=checkbox]", form), button = one("button[type=submit]", form), said = one("[data-said]", form);
    if (!button) continue;  // a table of one model
    const update = () => {
      const chosen = boxes.filter((b) => b.checked);
      for (const box of boxes) box.disabled = chosen.length === 2 && !box.checked;
      button.disabled = chosen.length !== 2;
      said.textContent = ["Choose two models to compare.", "Choose one more.", ""][chosen.length];
    };
    form.addEventListener("change", update);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const [a, b] = boxes.filter((x) => x.checked).sort((x, y) => x.dataset.rank - y.dataset.rank).map((x) => x.value);
      location.href = `compare-${a}~${b}~${form.dataset.compare}.html`;
    });
    update();
  }

  // -- filters that apply as soon as they are chosen --
  for (const form of all("form[data-auto]")) {
    form.addEventListener("change", (event) => { if (event.target.type !== "search") form.requestSubmit(); });
  }
  // -- and those of a page that was written as a file: rows are hidden here --
  for (const form of all("form[data-local]")) {
    const rows = all(form.dataset.local), said = one("[data-said]", form);
    const apply = () => {
      const wanted = [...new FormData(form)].filter(([, value]) => value);
      let shown = 0;
      for (const row of rows) {
        const slices = JSON.parse(row.dataset.slices || "{}");
        row.hidden = !wanted.every(([name, value]) => {
          if (name === "q") return row.textContent.toLowerCase().includes(value.toLowerCase());
          return name.startsWith("slice.") ? slices[name.slice(6)] === value : (row.dataset[name] || "").split(" ").includes(value);
        });
        shown += !row.hidden;
      }
      if (said) said.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
    };
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  // -- a choice that is a page of its own --
  for (const select of all("select[data-go]")) select.addEventListener("change", () => { location.href = select.value; });

  // -- keys --
  const help = one("#help");
  const follow = (selector) => { const link = one(selector); if (link) link.click(); return Boolean(link); };
  function step(by) {  // on a list without an open row: move the focus
    const links = all(".rows a").filter((a) => a.offsetParent);
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    links[Math.max(0, Math.min(links.length - 1, at + by))].focus();
  }
  const keys = {
    "j": () => follow("a[rel=next]") || step(1),
    "k": () => follow("a[rel=prev]") || step(-1),
    "/": () => one("input[type=search]")?.focus(),
    "?": () => help.showModal(),
    "t": () => window.toggleTheme(),
    "h": () => { location.href = "index.html"; },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  for (const button of all("[data-do]")) {
    button.addEventListener("click", () => ({ help: () => help.showModal(), theme: window.toggleTheme, close: () => help.close() })[button.dataset.do]());
  }
  const open = one(".rows a[aria-current]"), list = open?.closest(".rows");
  if (list) list.scrollTop = open.offsetTop - (list.clientHeight - open.offsetHeight) / 2;
})();
