// Sets the theme before the first paint. A choice of the user wins over the one of the system.
"use strict";
(() => {
  try {
    const chosen = localStorage.getItem("passerelle-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* no storage: the theme of the system */ }
})();
