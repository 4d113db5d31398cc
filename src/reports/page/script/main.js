// The page: its data, its filters, and its sections, drawn anew when a filter changes.

const data = JSON.parse(document.getElementById("data").textContent);
for (const row of data.rows) {
  for (const key of data.pooled) if (key in row) row[key] = data.pool[row[key]];
  for (const column of Object.keys(row.scores)) row.scores[column] = data.pool[row.scores[column]];
}
const styles = stylesOf(unique(data.rows.map((row) => row.method)).sort(byValue.compare));

const searched = (row) => [row.method, row.options, row.name, row.kind, groupTitle(data.groups[row.group])].join(" ").toLowerCase();
const CHOICES = {
  method: (row) => row.method,
  model: (row) => data.groups[row.group].model,
  benchmark: (row) => data.groups[row.group].benchmark,
  tasks: (row) => data.groups[row.group].tasks.length,
};
const BUDGETS = { labels: "no validation labels", data: "no data", statistics: "no statistics", gradients: "no gradients", identity: "one model, no task identity" };
const state = { text: "", budgets: new Set(), ...Object.fromEntries(Object.keys(CHOICES).map((name) => [name, ""])) };

function isShown(row) {
  return searched(row).includes(state.text.toLowerCase())
    && Object.entries(CHOICES).every(([name, value]) => state[name] === "" || String(value(row)) === state[name])
    && [...state.budgets].every((use) => !row.uses?.[use]);
}

function drawFilters() {
  const search = element("input", { type: "search", placeholder: "method, option, model", oninput: (event) => draw((state.text = event.target.value)) });
  const selects = Object.entries(CHOICES).map(([name, value]) => {
    const values = unique(data.rows.map((row) => String(value(row)))).filter(Boolean).sort(byValue.compare);
    if (values.length < 2) return null;
    const choice = element("select", { onchange: (event) => draw((state[name] = event.target.value)) },
      element("option", { value: "" }, "all"), values.map((each) => element("option", { value: each }, each)));
    return element("label", {}, name === "tasks" ? "number of tasks" : name, choice);
  });
  const budgets = Object.entries(BUDGETS).map(([use, label]) => {
    const toggle = (event) => draw(state.budgets[event.target.checked ? "add" : "delete"](use));
    return element("label", {}, element("input", { type: "checkbox", onchange: toggle }), label);
  });
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.append(element("label", {}, "search", search), ...selects.filter(Boolean),
    element("fieldset", {}, element("legend", {}, "Budget: only merges that use"), budgets));
}

function draw() {
  const rows = data.rows.filter(isShown);
  const sections = [resultsSection(rows), tasksSection(rows), chartsSection(rows), othersSection(rows), publishedSection()];
  const main = document.querySelector("main");
  const nothing = element("p", {}, data.rows.length ? "No record passes these filters." : "There are no records.");
  main.replaceChildren(...(rows.length ? [] : [nothing]), ...sections.flat(Infinity).filter(Boolean));
  const shown = rows.length === data.rows.length ? count(rows.length, "record") : `${rows.length} of ${count(data.rows.length, "record")}`;
  document.getElementById("counts").textContent = shown;
  document.querySelector("nav").replaceChildren(...[...main.querySelectorAll("h2")].map((heading) =>
    element("a", { href: `#${heading.id}` }, heading.textContent)));
}

drawFilters();
draw();
