// Comparisons with published numbers, each with its verdict and the reason in words.

const verdictOrder = { column: null, descending: false };
const VERDICTS = { agrees: ["agrees", "✓"], differs: ["differs", "≠"] };
let chosenVerdict = "";

function publishedSection() {
  if (!data.comparisons.length) return null;
  const place = element("div");
  const draw = () => place.replaceChildren(publishedTable(data.comparisons.filter((cell) => !chosenVerdict || cell.verdict === chosenVerdict)));
  const verdicts = unique(data.comparisons.map((cell) => cell.verdict)).sort();
  const options = ["", ...verdicts].map((verdict) => {
    const cells = data.comparisons.filter((cell) => !verdict || cell.verdict === verdict);
    return element("option", { value: verdict, selected: verdict === chosenVerdict }, `${verdict || "all"} (${cells.length})`);
  });
  const choice = element("select", { id: "verdicts", onchange: (event) => draw((chosenVerdict = event.target.value)) }, options);
  draw();
  return [element("h2", { id: "published" }, "Beside published numbers"),
    element("p", { class: "note" }, "In the unit of each table. Numbers of other weights, data or protocols are not comparable, and the reason says which."),
    element("label", { class: "note" }, "Verdict: ", choice), place];
}

function publishedTable(cells) {
  const figureColumn = (heading, key) => ({ heading, class: "number", value: (cell) => cell[key], cell: (cell) => short(cell[key]) });
  const columns = [
    { heading: "row", value: (cell) => cell.row },
    { heading: "column", value: (cell) => cell.column },
    { ...figureColumn("ours", "ours"), cell: (cell) => [short(cell.ours), isNumber(cell.half_width) ? element("span", { class: "half" }, ` ± ${short(cell.half_width)}`) : null] },
    figureColumn("published", "published"),
    { ...figureColumn("difference", "difference"), cell: (cell) => (cell.difference > 0 ? "+" : "") + short(cell.difference) },
    { heading: "verdict", value: (cell) => cell.verdict, cell: (cell) => {
      const [name, sign] = VERDICTS[cell.verdict] ?? ["incomparable", "–"];
      return element("span", { class: `verdict ${name}` }, `${sign} ${cell.verdict}`);
    } },
    { heading: "reason", class: "words", value: (cell) => cell.reason },
    { heading: "source", class: "words", value: (cell) => cell.source, cell: (cell) => [cell.source,
      cell.confidence ? element("div", { class: "detail" }, cell.confidence) : null] },
  ];
  const groups = unique(cells.map((cell) => cell.table)).map((table) => ({ heading: table, rows: cells.filter((cell) => cell.table === table) }));
  const table = sortableTable("Ours and published", columns, groups, verdictOrder);
  table.classList.add("cards");
  return table;
}
