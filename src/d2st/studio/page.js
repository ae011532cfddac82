// The tab's session waits in the tab's own storage only while the page is away, so that a reload finds it again and a
// duplicated tab does not.
addEventListener("pagehide", () => {
  if (window.d2stToken) sessionStorage.setItem("d2st", window.d2stToken);
});
addEventListener("pageshow", (event) => {
  if (event.persisted) sessionStorage.removeItem("d2st");
});
