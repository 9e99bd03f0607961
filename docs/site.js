// Of the documentation site only: the button of a console block copies its commands, without prompts and output.
document.addEventListener(
  "click",
  (event) => {
    const button = event.target.closest(".md-code__button");
    const code = button?.closest("pre, .highlight")?.querySelector("code");
    if (!code?.querySelector(".gp")) return; // no prompt
    const lines = code.textContent.split("\n").filter((line) => line.startsWith("$ "));
    navigator.clipboard.writeText(lines.map((line) => line.slice(2)).join("\n"));
    event.stopImmediatePropagation();
    button.animate([{ opacity: 0.2 }, { opacity: 1 }], 400);
  },
  true,
);
