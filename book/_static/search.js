// On the search page: excerpts are plain text. Sphinx takes them from the pages as they are
// written, where a formula is still the TeX that MathJax would set.
const asWritten = Search.htmlToText;
Search.htmlToText = (html, anchor) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  for (const formula of page.querySelectorAll(".math, .eqno")) {
    formula.replaceWith(formula.matches("span.math") ? "…" : " … ");
  }
  for (const left of page.querySelectorAll("pre, noscript")) left.remove();
  return asWritten(page.documentElement.outerHTML, anchor);
};
