// Charts of one group: validation curves, accuracy against bytes and seconds, scaling by depth; and analyses.

let chosenGroup = null;

function chartsSection(rows) {
  const groups = grouped(rows.filter((row) => row.kind === "merge"));
  if (!groups.length) return null;
  const largest = groups.reduce((best, each) => (each.rows.length > best.rows.length ? each : best));
  const shown = groups.find(({ group }) => group === chosenGroup) ?? largest;
  const place = element("div");
  const draw = (each) => place.replaceChildren(element("div", { class: "charts" }, charts(each.rows)), ...analyses(each.rows));
  const choice = element("select", { onchange: (event) => draw(groups[event.target.value], (chosenGroup = groups[event.target.value].group)) },
    groups.map((each, index) => element("option", { value: index, selected: each === shown }, groupTitle(each.group))));
  draw(shown);
  return [element("h2", { id: "charts" }, "Charts"),
    groups.length > 1 ? element("label", { class: "note" }, "Of one benchmark and lineage: ", choice)
      : element("p", { class: "note" }, groupTitle(shown.group)),
    place];
}

const percentAxis = { label: "accuracy, %", format: (value) => short(100 * value) };

function charts(rows) {
  const styled = (row) => ({ style: styles.get(row.method), group: row.method });
  return [
    figure(rows, "curve", "Validation accuracy against the coefficient", "A line for each record that searched, with the best point's values.",
      { label: "coefficient" }, { ...percentAxis, label: "validation accuracy, %" }, (row) => {
        const points = row.curve[0].map((coefficient, index) => [coefficient, row.curve[1][index]]);
        const best = points.reduce((a, b) => (b[1] > a[1] ? b : a));
        return { ...styled(row), line: true, points, text: `${labelOf(row)}: best ${percent(best[1])} % at ${short(best[0])}` };
      }),
    scatter(rows, "Accuracy against stored bytes", "MB stored for all tasks", (row) => (row.bytes > 0 ? row.bytes / 1e6 : null), "MB"),
    scatter(rows, "Accuracy against time", "seconds of the run", (row) => (row.seconds > 0 ? row.seconds : null), "s"),
    figure(rows, "depth", "Scaling by depth (LiNeS)", "What each block's entries are multiplied by.",
      { label: "block", whole: true }, { label: "scale", from: 0 }, (row) => {
        const blocks = row.depth.filter(([name, scale]) => name !== "outside" && isNumber(scale));
        const outside = row.depth.find(([name]) => name === "outside");
        const points = blocks.map(([, scale], index) => [index, scale]);
        const text = `${labelOf(row)}: ${short(blocks[0]?.[1])} to ${short(blocks.at(-1)?.[1])}`;
        return { ...styled(row), line: true, points, text: outside ? `${text}, outside the blocks ${short(outside[1])}` : text };
      }),
  ];

  function scatter(all, title, label, value, unit) {
    const series = all.filter((row) => isNumber(value(row)) && isNumber(row.means?.merged?.[0])).map((row) => ({
      ...styled(row), label: row.method, full: Boolean(row.uses?.identity),
      points: [[value(row), row.means.merged[0], row.means.merged[1]]],
      text: `${labelOf(row)}: ${intervalText(row.means.merged)}, ${short(value(row))} ${unit}` }));
    return plot(title, "Filled: a model for each task. Bars: 95 % intervals.", { label, log: true }, percentAxis, series);
  }
}

/** A plot of the rows that have `key`; null if none has. */
function figure(rows, key, title, note, x, y, seriesOf) {
  return plot(title, note, x, y, rows.filter((row) => row[key]).map(seriesOf).filter((each) => each.points.length));
}

/** The analyses that records carry: masks, cosines, singular values. */
function analyses(rows) {
  return rows.filter((row) => row.analysis).map((row) => {
    const { tasks = [], share, overlap, cosine, spectra } = row.analysis;
    return element("details", { open: true }, element("summary", {}, `Analysis of what tasks share: ${labelOf(row)}`),
      share ? shareTable(share) : null,
      element("div", { class: "charts" },
        overlap ? matrix("Agreement of masks: weights in both over weights in either", tasks, overlap) : null,
        cosine ? matrix("Cosine of the task vectors", tasks, cosine) : null,
        spectra ? plot("Singular values", "Over the largest, mean over the tasks, of layers from shallow to deep.",
          { label: "index", log: true }, { label: "over the largest", log: true }, spectra.map(([name, [indices, values]], index) => ({
            style: spectrumStyles[index], group: name, line: true, text: name,
            points: indices.map((number, position) => [number, values[position]]).filter(([, value]) => value > 0) }))
            .filter((each) => each.points.length)) : null));
  });
}

const spectrumStyles = [...stylesOf(["0", "1", "2", "3", "4", "5"]).values()];

function shareTable(share) {
  const heat = heatOf(share);
  const name = (tasks) => ["none (catastrophic)", "one (selfish)"][tasks] ?? String(tasks);
  const columns = share.map((_, tasks) => ({ heading: name(tasks), class: "number", value: (row) => row[tasks],
    cell: (row) => percent(row[tasks]), heat: (row) => heat(row[tasks]) }));
  return sortableTable("Share of weights, in %, by the number of tasks whose masks select them",
    [{ heading: "tasks", value: () => "weights, %" }, ...columns], [{ rows: [share] }], { column: null });
}

function matrix(label, tasks, values) {
  const heat = heatOf(values.flatMap((row, index) => row.filter((_, other) => other !== index)));
  const rows = values.map((row, index) => ({ row, index }));
  const columns = tasks.map((task, other) => ({ heading: task, class: "number", value: ({ row }) => row[other] ?? null,
    cell: ({ row }) => (isNumber(row[other]) ? row[other].toFixed(2) : MISSING),
    heat: ({ row, index }) => (index === other ? null : heat(row[other])) }));
  const table = sortableTable(label, [{ heading: "task", value: ({ index }) => tasks[index] ?? "" }, ...columns], [{ rows }], { column: null });
  table.classList.add("matrix");
  return table;
}
