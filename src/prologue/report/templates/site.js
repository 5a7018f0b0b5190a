"use strict";

// Sorting: each header in the last row of a sortable table's head becomes a button. Up, down, and back as it was.
function sortKey(row, column) {
  let start = 0;
  for (const cell of row.cells) {
    if (start === column) return cell.dataset.value ?? cell.textContent.trim();
    start += cell.colSpan;
  }
  return ""; // inside a cell that spans columns: nothing was measured
}

function compare(left, right) {
  const numbers = [left, right].map(Number);
  return numbers.some(Number.isNaN) ? left.localeCompare(right, "en", { numeric: true }) : numbers[0] - numbers[1];
}

function sorted(rows, column, direction) {
  if (direction === "none") return rows;
  const known = rows.filter((row) => sortKey(row, column) !== "");
  const unknown = rows.filter((row) => sortKey(row, column) === ""); // always last
  known.sort((a, b) => compare(sortKey(a, column), sortKey(b, column)));
  return [...(direction === "descending" ? known.reverse() : known), ...unknown];
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...[...table.tHead.rows].at(-1).cells];
  const groups = [...table.tBodies].map((body) => ({
    body,
    fixed: [...body.rows].filter((row) => row.cells[0].scope === "rowgroup"),
    rows: [...body.rows].filter((row) => row.cells[0].scope !== "rowgroup"),
  }));
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...[...header.childNodes].filter((node) => node.className !== "note"));
    header.prepend(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[header.ariaSort] ?? "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") header.ariaSort = next;
      for (const { body, fixed, rows } of groups) body.append(...fixed, ...sorted(rows, column, next));
    });
  });
}

// Zooming: each picture becomes a button that shows it as large as the window; Esc closes.
const dialog = document.createElement("dialog");
dialog.setAttribute("aria-label", "Enlarged picture");
dialog.innerHTML =
  '<form method="dialog"><p></p><button>Close</button></form><div tabindex="0" role="region" aria-label="Picture"></div>';
const [title, frame] = [dialog.querySelector("p"), dialog.querySelector("div")];
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

function address(picture) {
  if (picture.tagName === "IMG") return picture.src;
  return "data:image/svg+xml," + encodeURIComponent(new XMLSerializer().serializeToString(picture));
}

function enlarge(picture) {
  const image = new Image();
  image.alt = picture.alt ?? picture.getAttribute("aria-label");
  image.src = address(picture);
  image.style.minWidth = `${parseInt(picture.getAttribute("width"), 10)}px`; // a phone scrolls rather than shrinks it
  image.className = picture.closest(".pairs") ? "pixels" : "";
  title.textContent = image.alt;
  frame.replaceChildren(image);
  dialog.showModal();
}

for (const picture of document.querySelectorAll(".plate img, .plate svg")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "zoom";
  button.title = "Enlarge";
  picture.closest(".plate").removeAttribute("tabindex"); // the button scrolls the plate as well
  picture.replaceWith(button);
  button.append(picture);
  button.addEventListener("click", () => enlarge(picture));
}
document.body.append(dialog);
