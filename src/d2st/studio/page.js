// The tab's session waits in the tab's own storage only while the page is away, so that a reload finds it again and a
// duplicated tab does not.
addEventListener("pagehide", () => {
  if (window.d2stToken) sessionStorage.setItem("d2st", window.d2stToken);
});
addEventListener("pageshow", (event) => {
  if (event.persisted) sessionStorage.removeItem("d2st");
});

// gradio calls every field for files the same; whoever hears the page instead of seeing it needs to know which is which.
new MutationObserver(() => {
  for (const block of document.querySelectorAll(".block:has(label[data-testid=block-label])")) {
    const name = block.querySelector("label[data-testid=block-label]").textContent.trim();
    const button = block.querySelector("button.upload-container:not([data-named])");
    if (button) {
      button.setAttribute("aria-label", `${name}: choose files, or drop them here`);
      button.dataset.named = "yes";
    }
  }
}).observe(document, { childList: true, subtree: true });
