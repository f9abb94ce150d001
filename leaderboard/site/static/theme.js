// Loaded before the page is drawn, so that a chosen theme does not flash. Without a choice the system's holds.
"use strict";
(() => {
  const root = document.documentElement;
  const media = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme || (media.matches ? "dark" : "light")) === "dark";
  // Plots are pictures in a light and a dark version; their <source> follows the system unless told otherwise.
  const pictures = () => {
    for (const source of document.querySelectorAll("source[data-dark]")) {
      source.media = root.dataset.theme ? (isDark() ? "all" : "not all") : "(prefers-color-scheme: dark)";
    }
  };
  const chosen = stored();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  window.toggleTheme = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* private mode: for this page only */ }
    pictures();
  };
  document.addEventListener("DOMContentLoaded", pictures);
})();
