// The tables of results: merges, and other experiments, in groups of records that may be compared.

/** What groups have in common that differ in nothing but their lineage. */
const nameOf = (group) => JSON.stringify([group.benchmark, group.model, [...group.tasks].sort()]);

function groupTitle(group) {
  const isAlone = data.groups.filter((other) => nameOf(other) === nameOf(group)).length === 1;
  const benchmark = group.benchmark === "unknown" ? "unknown benchmark" : group.benchmark;
  const lineage = isAlone ? "" : `, lineage ${group.lineage || "not recorded"}`;
  const tasks = group.tasks.length ? count(group.tasks.length, "task") : "";
  return `${benchmark}${lineage}: ${[group.model, tasks].filter(Boolean).join(", ")}`;
}

function groupHeading(group) {
  const lineage = group.lineage ? `lineage ${group.lineage}, pre-trained ${group.pretrained || "unknown"}` : "no lineage recorded";
  return [groupTitle(group), element("span", { class: "detail" }, [group.tasks.join(", "), lineage].filter(Boolean).join("; "))];
}

/** Rows by group, the groups in order. */
function grouped(rows) {
  return data.groups
    .map((group, index) => ({ group, rows: rows.filter((row) => row.group === index) }))
    .filter((each) => each.rows.length);
}

/** A warning where groups differ in nothing but their lineage; null where none do. */
function lineageNote(groups) {
  const names = groups.map(({ group }) => nameOf(group));
  const mixed = unique(groups.filter((_, index) => names.indexOf(names[index]) !== names.lastIndexOf(names[index]))
    .map(({ group }) => group.benchmark));
  if (!mixed.length) return null;
  return element("p", { class: "note" }, `Several lineages stand under one name (${mixed.join(", ")}): other weights, heads or data. `
    + "Each has rows of its own; figures of different ones do not compare.");
}

const nameColumn = (heading) => ({
  heading,
  value: labelOf,
  cell: (row) => [opener(row.method, () => detail(row)), row.options ? element("div", { class: "detail" }, row.options) : null],
});
const secondsColumn = { heading: "seconds", class: "number", value: (row) => row.seconds ?? null, cell: (row) => fixed(row.seconds) };

function meanColumn(key, heading, title) {
  return { heading, title, class: "number", value: (row) => row.means?.[key]?.[0] ?? null, cell: (row) => interval(row.means?.[key]) };
}

const BUDGET = { labels: "labels", data: "unlabelled data", gradients: "gradients", statistics: "statistics", identity: "task identity" };

/** What a merge uses; labels go without their data. */
const usesOf = (row) => Object.keys(BUDGET).filter((use) => row.uses?.[use] && !(use === "data" && row.uses.labels));

const mergeColumns = [
  nameColumn("method, options"),
  meanColumn("merged", "accuracy, %", "mean test accuracy over the tasks ± half of its 95 % interval"),
  meanColumn("normalised", "normalised, %", "mean over the tasks of merged over fine-tuned accuracy"),
  { heading: "coefficient", class: "number", value: (row) => row.coefficient ?? null },
  { heading: "stored, MB", class: "number", title: "bytes of the merged model, or of all tasks' models together",
    value: (row) => row.bytes ?? null, cell: (row) => megabytes(row.bytes) },
  { heading: "MB a task", class: "number", value: perTask, cell: (row) => megabytes(perTask(row)) },
  secondsColumn,
  { heading: "uses", class: "words", title: "beside the checkpoints", value: (row) => usesOf(row).map((use) => BUDGET[use]).join(", ") || "nothing more" },
];

function perTask(row) {
  const tasks = data.groups[row.group].tasks.length;
  return isNumber(row.bytes) && tasks ? row.bytes / tasks : null;
}

const mergeOrder = { column: 1, descending: true };
const otherOrders = {};

function resultsSection(rows) {
  const groups = grouped(rows.filter((row) => row.kind === "merge"));
  if (!groups.length) return null;
  const sections = groups.map(({ group, rows: members }) => ({ heading: groupHeading(group), rows: members }));
  return [element("h2", { id: "results" }, "Results"),
    element("p", { class: "note" }, "Mean test accuracy ± half of its 95 % interval. Rows below one heading are of the same models, "
      + "data and tasks, and are sorted among themselves. A method's name opens what its record says."),
    lineageNote(groups),
    sortableTable("Merges, by benchmark and lineage", mergeColumns, sections, mergeOrder)];
}

function othersSection(rows) {
  const kinds = unique(rows.map((row) => row.kind)).filter((kind) => kind !== "merge").sort();
  if (!kinds.length) return null;
  const others = rows.filter((row) => row.kind !== "merge");
  return [element("h2", { id: "others" }, "Other experiments"), lineageNote(grouped(others)), kinds.map((kind) => {
    const members = rows.filter((row) => row.kind === kind);
    const keys = unique(members.flatMap((row) => Object.keys(row.means ?? {})));
    const columns = [nameColumn("fine-tuning mode"), ...keys.map((key) => meanColumn(key, `${key.replaceAll("_", " ")}, %`)), secondsColumn];
    const sections = grouped(members).map(({ group, rows: own }) => ({ heading: groupHeading(group), rows: own }));
    otherOrders[kind] ??= { column: null, descending: false };
    return [element("h3", {}, kind.replaceAll("_", " ")), sortableTable("By benchmark and lineage", columns, sections, otherOrders[kind])];
  })];
}

/** What a record says beyond its row. */
function detail(row) {
  const tasks = data.groups[row.group].tasks;
  const columns = Object.entries(row.scores ?? {});
  const scores = columns.length ? element("table", {},
    element("thead", {}, element("tr", {}, ["task", ...columns.map(([name]) => `${name}, %`)].map((name, index) =>
      element("th", { scope: "col", class: index ? "number" : null }, name)))),
    element("tbody", {}, tasks.map((task, index) => element("tr", {}, element("th", { scope: "row" }, task),
      columns.map(([, [means, halves]]) => element("td", { class: "number" }, interval([means[index], halves[index]]))))))) : null;
  const means = Object.entries(row.means ?? {}).filter(([key]) => key.startsWith("unseen_"))
    .map(([key, mean]) => `${key.replaceAll("_", " ")}: ${intervalText(mean)}`);
  const lines = [
    ...usesOf(row).map((use) => `Uses ${row.uses[use]}.`),
    row.separate ? `As many fine-tuned models take ${megabytes(row.separate)} MB.` : null,
    ...means,
    ...Object.entries(row.summary ?? {}).map(([name, value]) => `${name}: ${short(value)}`),
    ...(row.notes ?? []),
  ].filter(Boolean);
  return [element("div", {}, row.name ?? "a record without a name"), scores,
    lines.length ? element("ul", {}, lines.map((line) => element("li", {}, line))) : null];
}
