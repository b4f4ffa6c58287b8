"use strict";
/* A button in the head of a column sorts the rows by it, and once more the other way round. */
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, at) => {
    const cell = row.cells[at];
    if (!("value" in cell.dataset)) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const order = (a, b) =>
    typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  heads.forEach((head, at) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const rows = [...body.rows].sort((one, two) => {
        const a = key(one, at), b = key(two, at);
        if (a === null || b === null) return (a === null) - (b === null);
        return up ? order(a, b) : order(b, a);
      });
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
      const said = document.getElementById("sorted");
      if (said) said.textContent =
        `Sorted by ${head.textContent.trim()}, ${up ? "ascending" : "descending"}.`;
    });
  });
}
