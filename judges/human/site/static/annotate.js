// One question: what is pressed is sent at once and shown as saved only when the server has it on disk. Until then nobody leaves
// the page, and what could not be sent is sent again.
"use strict";
(() => {
  const one = (selector) => document.querySelector(selector), all = (selector) => [...document.querySelectorAll(selector)];
  const desk = one(".desk"), place = desk.dataset.place, state = one(".state"), comment = one("textarea"), help = one("#help");
  const fields = all("fieldset[data-choose]").map((f) => f.dataset.choose);
  const AGAIN = 1000, SLOW = 400;  // milliseconds: until a failed save is tried again, and until a comment is sent
  const now = Object.fromEntries(fields.map((field) => [field, null]));
  for (const button of all("button[aria-pressed=true]")) now[button.dataset.field] = value(button);
  let active = fields.find((field) => now[field] === null) || fields[0];
  let waiting = false, sending = null, typing = 0, next = desk.dataset.next;

  function value(button) {
    return button.dataset.value === "cannot" ? "cannot" : Number(button.dataset.value);
  }
  const complete = () => fields.every((field) => now[field] !== null);
  function show() {
    for (const set of all("fieldset[data-choose]")) set.classList.toggle("active", set.dataset.choose === active);
    for (const button of all("button[data-field]")) button.setAttribute("aria-pressed", String(now[button.dataset.field] === value(button)));
    const go = one("a[rel=go]");
    go.toggleAttribute("aria-disabled", !complete());
    if (!complete()) go.setAttribute("aria-disabled", "true");
    go.setAttribute("href", next || "./");
    go.firstChild.textContent = next ? "Go on " : "Done ";
  }
  function say(what, words) { state.dataset.state = what; state.textContent = words; }

  // -- time: only while the page is looked at --
  let since = performance.now(), spent = 0;
  const clock = () => { const t = performance.now(); if (!document.hidden) spent += t - since; since = t; };
  document.addEventListener("visibilitychange", () => { const t = performance.now(); if (document.hidden) spent += t - since; since = t; });

  // -- saving: one request at a time, the last state wins --
  function save() {
    clearTimeout(typing);
    typing = 0;
    waiting = true;
    say("saving", "saving …");
    sending ||= send().finally(() => { sending = null; });
    return sending;
  }
  async function send() {
    while (waiting) {
      waiting = false;
      clock();
      const seconds = spent / 1000;
      spent = 0;
      const body = JSON.stringify({ reasoning: null, ...now, comment: comment.value, seconds });
      try {
        const answer = await fetch(place, { method: "POST", body, headers: { "Content-Type": "application/json" } });
        if (!answer.ok) throw new Error(answer.status === 403 ? "open your own address again" : `error ${answer.status}`);
        const got = await answer.json();
        next = got.next ? String(got.next) : "";
        one("[data-done]").textContent = got.done;
        one("#progress").value = got.done;
        one("[data-spent]").textContent = got.spent;
        if (!waiting) say("saved", "saved");
      } catch (error) {
        spent += seconds * 1000;
        waiting = true;
        say("lost", `not saved: ${error instanceof TypeError ? "no connection" : error.message}; trying again`);
        await new Promise((done) => setTimeout(done, AGAIN));
      }
      show();
    }
  }
  async function leave(where) {
    if (!where) return;
    if (typing) save();
    while (sending) await sending;
    location.href = where;
  }
  addEventListener("beforeunload", (event) => { if (sending || typing) event.preventDefault(); });

  function choose(field, what) {
    now[field] = what;
    active = fields[Math.min(fields.indexOf(field) + 1, fields.length - 1)];
    show();
    save();
  }
  async function undo() {
    while (sending) await sending;
    try {
      const answer = await fetch("undo", { method: "POST" });
      const { place: at } = await answer.json();
      if (at === null) say("", "nothing to take back");
      else if (String(at) === place) location.reload();
      else location.href = String(at);
    } catch { say("lost", "not taken back: no connection"); }
  }
  const turn = (by) => {
    const at = Number(place) + by;
    if (at >= 1) leave(at <= Number(desk.dataset.last) ? String(at) : "./");
  };
  const move = (by) => { active = fields[Math.max(0, Math.min(fields.length - 1, fields.indexOf(active) + by))]; show(); };

  for (const button of all("button[data-field]")) button.addEventListener("click", () => choose(button.dataset.field, value(button)));
  comment.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(save, SLOW); say("saving", "saving …"); });
  for (const link of all(".turn a, .bar a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      if (link.getAttribute("aria-disabled") !== "true") leave(link.getAttribute("href"));
    });
  }
  const actions = { help: () => help.showModal(), close: () => help.close(), undo };
  for (const button of all("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);

  const keys = {
    "1": () => choose(active, 1), "0": () => choose(active, 0), "c": () => choose(active, "cannot"),
    "ArrowUp": () => move(-1), "ArrowDown": () => move(1), "ArrowLeft": () => turn(-1), "ArrowRight": () => turn(1),
    "Enter": () => { if (complete()) leave(next || "./"); },
    "u": undo, "m": () => comment.focus(), "?": () => help.showModal(), "t": () => window.toggleTheme(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (document.activeElement?.matches(".film") && event.key.startsWith("Arrow")) return;  // the arrows move the image
    if (event.key === "Enter" && event.target.matches("button, a, summary")) return;
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  show();
})();
