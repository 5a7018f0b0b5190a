// What a reader with a screen reader or a keyboard needs of a page; the value is a list of what is wrong.
(() => {
  const wrong = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const check = (selector, good, problem) => all(selector).forEach((element) => good(element) || wrong.push(`${problem}: ${element.outerHTML.slice(0, 90)}`));
  const name = (element) => element.ariaLabel || document.getElementById(element.getAttribute("aria-labelledby"))?.textContent || element.textContent.trim();
  check("html", (html) => html.lang && document.title, "no language or title");
  check("img", (image) => image.alt.trim(), "picture without alt");
  check("svg", (svg) => svg.closest('svg[role="img"]')?.ariaLabel, "chart without a label");
  check("table", (table) => table.caption?.textContent.trim(), "table without caption");
  check("table", (table) => table.tHead || [...table.rows].every((row) => row.cells[0].scope), "table without headers");
  check("th", (header) => header.scope && header.textContent.trim(), "header without scope or text");
  check("tbody tr", (row) => row.cells[0].tagName === "TH", "row without header");
  check("button, a[href], summary", (control) => name(control) || control.querySelector("img, svg"), "control without name");
  check("[tabindex]", (region) => region.role && region.ariaLabel, "region without role or label");
  check("nav", (nav) => nav.ariaLabel, "navigation without label");
  check('a[href^="#"]', (link) => document.getElementById(link.hash.slice(1)), "link to nowhere");
  check("[aria-labelledby]", (part) => document.getElementById(part.getAttribute("aria-labelledby")), "named by nothing");
  check(".scroll, .plate.wide, pre", (box) => box.tabIndex === 0 || box.querySelector("button"), "not reachable by keyboard");
  const ids = all("[id]").map((element) => element.id);
  if (new Set(ids).size < ids.length) wrong.push("an id twice");
  if (all("h1").length !== 1) wrong.push("not one h1");
  if (all("main").length !== 1 || !all("body > header nav").length) wrong.push("landmarks are missing");
  const levels = all("h1, h2, h3, h4").map((heading) => Number(heading.tagName[1]));
  if (levels.some((level, place) => level > (levels[place - 1] ?? 0) + 1)) wrong.push(`headings skip a level: ${levels}`);
  return wrong;
})();
