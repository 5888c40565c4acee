// What axe asks for beyond the theme: a name for the search, and a place for the keyboard in what is scrolled.
const SCROLLED = ".md-typeset__scrollwrap, .md-typeset pre > code, .md-typeset p";
window.addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const element of document.querySelectorAll(SCROLLED)) {
    if (element.scrollWidth > element.clientWidth) {
      element.tabIndex = 0;
    }
  }
});
