for (const math of document.querySelectorAll(".arithmatex")) {
  const displayMode = math.tagName === "DIV";
  katex.render(math.textContent.trim().slice(2, -2), math, { displayMode, throwOnError: false });
}
