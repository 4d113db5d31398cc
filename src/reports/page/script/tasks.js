// Accuracy by method and task, a table for each group, the darker or brighter the better.

const taskOrders = {};

function tasksSection(rows) {
  const groups = grouped(rows.filter((row) => row.kind === "merge" && row.scores?.merged));
  if (!groups.length) return null;
  return [element("h2", { id: "tasks" }, "Accuracy by method and task"),
    element("p", { class: "note" }, "Test accuracy in %; the stronger the colour, the higher. Models of their own: the first rows."),
    groups.map(({ group, rows: members }) => [element("h3", {}, groupTitle(group)), taskTable(group, members)])];
}

function taskTable(group, members) {
  const references = ["fine-tuned", "zero-shot"].flatMap((model) => {
    const row = members.find((member) => member.scores[model]);
    return row ? [{ label: model, scores: row.scores[model][0], mean: row.means?.[model.replace("-", "")]?.[0] ?? null }] : [];
  });
  const rows = [...references, ...members.map((row) => ({
    label: labelOf(row), scores: row.scores.merged[0], mean: row.means?.merged?.[0] ?? null }))];
  const heat = heatOf(rows.flatMap((row) => row.scores));
  const columns = [
    { heading: "method", value: (row) => row.label },
    { heading: "mean", class: "number", value: (row) => row.mean, cell: (row) => percent(row.mean) },
    ...group.tasks.map((task, index) => ({
      heading: task, class: "number", value: (row) => row.scores[index] ?? null, cell: (row) => percent(row.scores[index]),
      heat: (row) => heat(row.scores[index]) })),
  ];
  const key = data.groups.indexOf(group);
  taskOrders[key] ??= { column: 1, descending: true };
  return sortableTable(`Test accuracy by task: ${groupTitle(group)}`, columns, [{ rows }], taskOrders[key]);
}
