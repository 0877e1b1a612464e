// A table that is wider than its page scrolls in a box. The theme lets the keyboard reach
// other boxes that scroll, but not these.
document.addEventListener("DOMContentLoaded", () => {
  // What folds a list of pages away is an arrow: this is what it is called.
  for (const arrow of document.querySelectorAll("li.has-children > details > summary")) {
    const pages = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages of ${pages}`);
  }

  const reach = (box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  const sizes = new ResizeObserver((entries) => {
    for (const entry of entries) {
      reach(entry.target.closest(".pst-scrollable-table-container"));
    }
  });
  for (const box of document.querySelectorAll(".pst-scrollable-table-container")) {
    sizes.observe(box);
    for (const table of box.children) sizes.observe(table);
  }
});
