// Tables that sort.

/** A button in every heading: sorts by that column, upwards, then downwards; cells without a number stay last. */
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const numeric = heads.map((_, column) => [...body.rows].some(row => row.cells[column].dataset.v !== undefined));
  const key = (row, column) => {
    const cell = row.cells[column];
    if (numeric[column]) return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    return cell.textContent;
  };
  heads.forEach((head, column) => {
    const name = head.textContent;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true});
      body.append(...[...body.rows].sort((left, right) => {
        const [a, b] = [key(left, column), key(right, column)];
        if (a === null || b === null) return (a === null) - (b === null);
        return up ? compare(a, b) : compare(b, a);
      }));
      speak(`Sorted by ${name}, ${up ? "ascending" : "descending"}.`);
    };
    head.replaceChildren(make("button", {type: "button", class: "sort", onclick: sort, text: name}));
  });
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
