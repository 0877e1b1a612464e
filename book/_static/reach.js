// What the theme leaves out of reach: arrows without a name, figures that a telephone shows
// smaller than their words can be read, and tables that scroll in a box of their own.
document.addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll("li.has-children > details > summary")) {
    const pages = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages of ${pages}`);
  }

  // Touched, a figure is shown by itself, and can be enlarged.
  for (const picture of document.querySelectorAll(".bd-article figure img")) {
    if (picture.closest("a")) continue;
    const link = document.createElement("a");
    link.className = "enlarge";
    link.href = picture.src;
    picture.replaceWith(link);
    link.append(picture);
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
