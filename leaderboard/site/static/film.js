// One image: zoom about the pointer, move, window and level. The window is linear, as on a reading station: what lies below
// level - window/2 is black, what lies above level + window/2 is white. It acts on the 8 bits that the model was given.
"use strict";
(() => {
  const film = document.querySelector(".film");
  if (!film) return;
  const image = film.querySelector("img"), box = film.closest(".stage");
  const slider = (name) => box.querySelector(`input[name=${name}]`);
  const said = (name) => box.querySelector(`output[name=${name}]`);
  const ramps = [...document.querySelectorAll("#window-level feFuncR, #window-level feFuncG, #window-level feFuncB")];
  const start = { scale: 1, x: 0, y: 0, width: 255, level: 127.5, inverted: false };
  const kept = film.dataset.kept ? `film ${film.dataset.kept}` : null;  // the image's name, where its settings outlive the page
  let now = { ...start, ...recall() };

  function recall() {
    try { return JSON.parse(kept && sessionStorage.getItem(kept)) || {}; } catch { return {}; }
  }
  function keep() {
    try { if (kept) sessionStorage.setItem(kept, JSON.stringify(now)); } catch { /* private mode: for this page only */ }
  }

  function draw() {
    now.x = limit(now.x, film.clientWidth * (1 - now.scale), 0);
    now.y = limit(now.y, film.clientHeight * (1 - now.scale), 0);
    image.style.transform = `translate(${now.x}px, ${now.y}px) scale(${now.scale})`;
    image.classList.toggle("large", now.scale >= 4);
    const slope = 255 / now.width, intercept = 0.5 - now.level / now.width;
    for (const ramp of ramps) {
      ramp.setAttribute("slope", now.inverted ? -slope : slope);
      ramp.setAttribute("intercept", now.inverted ? 1 - intercept : intercept);
    }
    slider("zoom").value = Math.log2(now.scale);
    slider("window").value = now.width;
    slider("level").value = now.level;
    said("zoom").textContent = `${now.scale.toFixed(1)}×`;
    said("window").textContent = Math.round(now.width);
    said("level").textContent = Math.round(now.level);
    keep();
  }
  function zoom(scale, x = film.clientWidth / 2, y = film.clientHeight / 2) {
    const next = Math.min(16, Math.max(1, scale)), by = next / now.scale;
    now = { ...now, scale: next, x: x - (x - now.x) * by, y: y - (y - now.y) * by };
    draw();
  }
  const set = (changes) => { now = { ...now, ...changes }; draw(); };
  const limit = (value, low, high) => Math.min(high, Math.max(low, value));
  const window_ = (by) => set({ width: limit(now.width + by, 2, 510) });
  const level = (by) => set({ level: limit(now.level + by, 0, 255) });
  const actions = {
    in: () => zoom(now.scale * 1.25), out: () => zoom(now.scale / 1.25), reset: () => set(start),
    invert: () => set({ inverted: !now.inverted }),
  };

  film.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== film && !("wheel" in film.dataset)) return;  // the page still scrolls past an image that was not chosen
    event.preventDefault();
    const rect = film.getBoundingClientRect();
    zoom(now.scale * 2 ** (-event.deltaY / 300), event.clientX - rect.left, event.clientY - rect.top);
  }, { passive: false });
  film.addEventListener("dblclick", (event) => {
    const rect = film.getBoundingClientRect();
    zoom(now.scale > 1 ? 1 : 2.5, event.clientX - rect.left, event.clientY - rect.top);
  });
  // two fingers zoom, one moves; with Shift a drag is window (across) and level (up and down)
  const held = new Map();
  film.addEventListener("pointerdown", (event) => {
    film.setPointerCapture(event.pointerId);
    held.set(event.pointerId, event);
    film.classList.add("moving");
  });
  film.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
    if (held.size === 2) {
      const other = [...held.values()].find((p) => p.pointerId !== event.pointerId), rect = film.getBoundingClientRect();
      const apart = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
      zoom(now.scale * apart(event) / Math.max(1, apart(before)), other.clientX - rect.left, other.clientY - rect.top);
    } else if (event.shiftKey) {
      set({ width: limit(now.width + dx, 2, 510), level: limit(now.level + dy / 2, 0, 255) });
    } else {
      set({ x: now.x + dx, y: now.y + dy });
    }
    held.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    film.addEventListener(name, (event) => { held.delete(event.pointerId); if (!held.size) film.classList.remove("moving"); });
  }

  slider("zoom").addEventListener("input", (event) => zoom(2 ** Number(event.target.value)));
  slider("window").addEventListener("input", (event) => set({ width: Number(event.target.value) }));
  slider("level").addEventListener("input", (event) => set({ level: Number(event.target.value) }));
  for (const button of box.querySelectorAll("button[data-film]")) button.addEventListener("click", actions[button.dataset.film]);

  const keys = {
    "+": actions.in, "=": actions.in, "-": actions.out, [film.dataset.reset || "0"]: actions.reset, "i": actions.invert,
    ",": () => window_(-16), ".": () => window_(16), "[": () => level(-8), "]": () => level(8),
  };
  const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
    else if (document.activeElement === film && moves[event.key]) {
      event.preventDefault();
      const [dx, dy] = moves[event.key];
      set({ x: now.x + dx, y: now.y + dy });
    }
  });
  addEventListener("resize", draw);
  draw();
})();
