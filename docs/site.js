// Of the documentation site only: the button of a console block copies its commands, without prompts and output.
document.addEventListener(
  "click",
  (event) => {
    const button = event.target.closest(".language-console button");
    if (!button) return;
    const lines = button.closest(".language-console").querySelector("code").textContent.split("\n");
    const commands = lines.filter((line) => line.startsWith("$ ")).map((line) => line.slice(2));
    navigator.clipboard.writeText(commands.join("\n"));
    event.stopImmediatePropagation();
    button.animate([{ opacity: 0.2 }, { opacity: 1 }], 400);
  },
  true,
);
