// Tables whose rows are sorted by any column, within their groups.

const byValue = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  return isNumber(a) && isNumber(b) ? a - b : byValue.compare(String(a), String(b));
}

/** Rows by a column's values; those without one come last in either direction. */
function sorted(rows, value, descending) {
  const present = rows.filter((row) => value(row) !== null && value(row) !== undefined);
  const missing = rows.filter((row) => value(row) === null || value(row) === undefined);
  present.sort((a, b) => (descending ? -1 : 1) * compare(value(a), value(b)));
  return [...present, ...missing];
}

/**
 * A table in a box that scrolls.
 *
 * columns: {heading, value(row), cell(row), class, title, heat(row)}: `value` sorts and is shown unless there is a `cell`; the
 *   first is the row's heading; `heat`, 0 to 1, colours a cell.
 * groups: {heading, rows}.
 * order: {column, descending}, which a click on a heading changes; kept by the caller where the table is built anew.
 */
function sortableTable(label, columns, groups, order) {
  const isSortable = groups.some(({ rows }) => rows.length > 1);
  const headings = columns.map((column, index) => {
    const click = () => {
      order.descending = order.column === index ? !order.descending : column.class === "number";
      order.column = index;
      fill();
    };
    const button = element("button", { type: "button", onclick: click }, column.heading);
    return element("th", { scope: "col", class: column.class, title: column.title }, isSortable ? button : column.heading);
  });
  const table = element("table", {}, element("caption", {}, label), element("thead", {}, element("tr", {}, headings)));

  function cells(row) {
    return columns.map((column, index) => {
      const heat = column.heat ? column.heat(row) : null;
      const names = [column.class, heat === null ? null : "heat"].filter(Boolean).join(" ");
      const attributes = { class: names || null, scope: index ? null : "row", "data-heading": column.heading };
      if (heat !== null) attributes["--heat"] = `${100 * heat}%`;
      return element(index ? "td" : "th", attributes, column.cell ? column.cell(row) : short(column.value(row)));
    });
  }

  function fill() {
    if (isSortable) headings.forEach((heading, index) => {
      heading.setAttribute("aria-sort", index !== order.column ? "none" : order.descending ? "descending" : "ascending");
    });
    const value = order.column === null ? null : columns[order.column].value;
    table.replaceChildren(...[...table.children].slice(0, 2), ...groups.map(({ heading, rows }) => {
      const span = { colspan: columns.length, scope: "rowgroup" };
      const first = heading ? element("tr", { class: "group" }, element("th", span, element("div", { class: "pinned" }, heading))) : null;
      const ordered = value ? sorted(rows, value, order.descending) : rows;
      return element("tbody", {}, first, ordered.map((row) => element("tr", {}, cells(row))));
    }));
  }

  fill();
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, table);
}

/** A button that opens and closes what `contents()` returns, in a row below its own. */
function opener(label, contents) {
  const button = element("button", { type: "button", class: "opener", "aria-expanded": "false", onclick: toggle }, label);

  function toggle() {
    const row = button.closest("tr");
    const isOpen = button.getAttribute("aria-expanded") === "true";
    if (isOpen) row.nextElementSibling.remove();
    else {
      const cell = element("td", { colspan: row.children.length }, element("div", { class: "pinned" }, contents()));
      row.after(element("tr", { class: "opened" }, cell));
    }
    button.setAttribute("aria-expanded", String(!isOpen));
  }

  return button;
}

/** What makes the colour of a value among others: 0 for the least, 1 for the greatest. */
function heatOf(values) {
  const numbers = values.filter(isNumber);
  const [least, greatest] = [Math.min(...numbers), Math.max(...numbers)];
  return (value) => (isNumber(value) ? (greatest > least ? (value - least) / (greatest - least) : 0.5) : null);
}
