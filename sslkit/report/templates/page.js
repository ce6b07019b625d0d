"use strict";
// Without this script the page is complete; with it, tables are sorted by their headings, and paper shows what is folded.
function cellKey(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function isMissing(row, column, numeric) {
  return numeric && row.cells[column].dataset.value === undefined;
}

function sortTable(table, header, column) {
  const numeric = header.classList.contains("number");
  const before = header.getAttribute("aria-sort");
  const order = (before === null ? numeric : before === "ascending") ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const missing = isMissing(a, column, numeric) - isMissing(b, column, numeric);
    const by = compareKeys(cellKey(a, column), cellKey(b, column));
    return missing || (order === "ascending" ? by : -by);
  });
  table.classList.add("sorted");
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortTable(table, header, column));
  });
}

const folded = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    folded.push(details);
    details.open = true;
  }
});
addEventListener("afterprint", () => {
  while (folded.length > 0) folded.pop().open = false;
});
