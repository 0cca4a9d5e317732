for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, k) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const text = row => row.cells[k].textContent.replace("−", "-").replaceAll(",", "");
    const order = (a, b) => text(a).localeCompare(text(b), "en", {numeric: true});
    const isNumber = [...body.rows].every(row => text(row) === "" || !isNaN(parseFloat(text(row))));
    const byNumber = (a, b) => (parseFloat(text(a)) || 0) - (parseFloat(text(b)) || 0);
    const rows = [...body.rows].sort(isNumber ? byNumber : order);
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...(up ? rows : rows.reverse()));
  }));
}
