// Plots: lines and points that tell what they are at the pointer and under the keyboard's focus.

const COLOURS = 7;
const LEFT = 54; // pixels of the numbers beside the upright axis
const MOST_MARKED = 12; // lines in one plot whose points are marked
const DASHES = ["", "7 4", "2 3", "10 3 2 3", "5 2"];
const MARKS = [
  "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
  "M-4 -4H4V4H-4Z",
  "M0 -5.5L5 4H-5Z",
  "M0 -6L6 0L0 6L-6 0Z",
  "M0 5.5L5 -4H-5Z",
];

/** The style of each name in turn: with the colour the dash and the mark change, so that none is told by colour alone. */
function stylesOf(names) {
  return new Map(names.map((name, index) => [name, {
    colour: `var(--series-${index % COLOURS})`, dash: DASHES[index % DASHES.length], mark: MARKS[index % MARKS.length],
  }]));
}

function linearTicks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

function logTicks(low, high, most) {
  if (high < 10 * low) return linearTicks(low, high, most);
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 1 },
    (_, index) => 10 ** (Math.floor(Math.log10(low)) + index));
  const fine = powers.flatMap((power) => [1, 2, 5].map((factor) => factor * power));
  const thinned = powers.filter((_, index) => index % Math.ceil(powers.length / most) === 0);
  const within = (ticks) => ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  return within(fine).length <= most ? within(fine) : within(thinned);
}

/** An axis: `{place(value), ticks}` from values to pixels. */
function axisOf(values, { log, from, pad = 0.04, most = 6, whole }, start, end) {
  const scale = log ? Math.log10 : (value) => value;
  let [low, high] = [Math.min(...values), Math.max(...values)].map(scale);
  if (from !== undefined) low = Math.min(low, scale(from));
  const room = (high - low) * pad || (log ? 0.3 : Math.abs(high) * 0.1 || 1);
  [low, high] = [low - room, high + room];
  const place = (value) => start + ((scale(value) - low) / (high - low)) * (end - start);
  const ticks = log ? logTicks(10 ** low, 10 ** high, most) : linearTicks(low, high, most);
  return { place, ticks: whole ? ticks.filter(Number.isInteger) : ticks };
}

/**
 * A figure.
 *
 * x, y: {label, log, from, format, whole}.
 * series: {text, style, group, points: [[x, y, half width]], line, label, full}; `text` is told, `group` stands in the legend.
 */
function plot(title, note, x, y, series) {
  if (!series.length) return null;
  const told = element("output", { "aria-live": "polite" }, "Point at a mark, or move to it by the tab key, for its figures.");
  const box = element("div");
  const legend = new Map(series.map((each) => [each.group, each]).sort(([a], [b]) => byValue.compare(a, b)));
  const figure = element("figure", {}, element("h3", {}, title), box, told,
    element("ul", { class: "legend" }, [...legend].map(([group, each]) => element("li", {}, sample(each), group))),
    element("figcaption", {}, note));
  let drawn = 0;
  const redraw = () => {
    const width = Math.round(box.clientWidth);
    if (width && width !== drawn) box.replaceChildren(plotted((drawn = width), title, x, y, series, told));
  };
  new ResizeObserver(() => requestAnimationFrame(redraw)).observe(box); // at once it would resize what is observed
  return figure;
}

function sample({ style, line, full }) {
  return drawing("svg", { viewBox: "0 0 36 16", "aria-hidden": "true" },
    drawing("g", { class: full ? "series full" : "series", "--colour": style.colour },
      line ? drawing("path", { class: "line", d: "M1 8H35", "stroke-dasharray": style.dash }) : null,
      drawing("path", { class: "mark", d: style.mark, transform: "translate(18 8)" })));
}

function plotted(width, title, x, y, series, told) {
  const height = Math.round(Math.min(360, Math.max(240, width * 0.62)));
  const [left, right, top, bottom] = [LEFT, width - 14, 12, height - 42];
  const points = series.flatMap((each) => each.points);
  const across = axisOf(points.map((point) => point[0]), { most: Math.max(3, Math.floor(width / 80)), ...x }, left, right);
  const up = axisOf(points.flatMap(([, value, half]) => (half ? [value - half, value + half] : [value])), y, bottom, top);
  const root = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title });
  for (const tick of up.ticks) {
    root.append(drawing("path", { class: "grid", d: `M${left} ${up.place(tick)}H${right}` }),
      drawing("text", { x: left - 8, y: up.place(tick) + 4, "text-anchor": "end" }, (y.format || short)(tick)));
  }
  for (const tick of across.ticks) {
    root.append(drawing("path", { class: "axis", d: `M${across.place(tick)} ${bottom}v5` }),
      drawing("text", { x: across.place(tick), y: bottom + 19, "text-anchor": "middle" }, (x.format || short)(tick)));
  }
  root.append(drawing("path", { class: "axis", d: `M${left} ${bottom}H${right}` }),
    drawing("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, x.label),
    drawing("text", { x: -(top + bottom) / 2, y: 13, transform: "rotate(-90)", "text-anchor": "middle" }, y.label));
  const taken = series.filter((each) => !each.line).flatMap((each) => each.points)
    .map(([a, b]) => ({ x: across.place(a) - 6, y: up.place(b) - 6, width: 12, height: 12 }));
  for (const each of series) root.append(drawnSeries(each, series.length > MOST_MARKED, across, up, told));
  for (const each of series.filter((candidate) => candidate.label)) {
    const label = placedLabel(each, across, up, right, top, taken);
    if (label) root.append(label);
  }
  return root;
}

function drawnSeries({ text, style, points, line, full }, isCrowded, across, up, told) {
  const places = points.map(([a, b]) => [across.place(a), up.place(b)]);
  const path = places.map(([a, b], index) => `${index ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
  const say = () => told.replaceChildren(text);
  const marks = points.map(([, value, half], index) => [
    half ? drawing("path", { class: "error", d: `M${places[index][0].toFixed(1)} ${up.place(value - half).toFixed(1)}V${up.place(value + half).toFixed(1)}` }) : null,
    line && isCrowded ? null : drawing("path", { class: "mark", d: style.mark, transform: `translate(${places[index].join(" ")})${line ? " scale(0.6)" : ""}` }),
  ]);
  return drawing("g", { class: full ? "series full" : "series", tabindex: 0, role: "img", "aria-label": text, "--colour": style.colour,
    onmouseenter: say, onfocus: say },
    drawing("title", {}, text),
    line ? drawing("path", { class: "target", d: path }) : null,
    line ? drawing("path", { class: "line", d: path, "stroke-dasharray": style.dash }) : null,
    marks.flat());
}

/** The label of a series' last point at the first place beside it where nothing else stands; null if there is none. */
function placedLabel({ label, points }, across, up, right, top, taken) {
  const [a, b] = [across.place(points.at(-1)[0]), up.place(points.at(-1)[1])];
  const size = { width: label.length * 6.4, height: 13 };
  const corners = [["start", a + 9, b - 6], ["end", a - 9, b - 6], ["middle", a, b - 22], ["middle", a, b + 9]];
  for (const [anchor, x, y] of corners) {
    const place = { x: x - size.width * { start: 0, middle: 0.5, end: 1 }[anchor], y, ...size };
    const isFree = place.x > LEFT && place.x + size.width < right && y > top - 6 && taken.every((other) => !overlaps(place, other));
    if (isFree) {
      taken.push(place);
      return drawing("text", { class: "label", x, y: y + 10, "text-anchor": anchor, "aria-hidden": "true" }, label);
    }
  }
  return null;
}

const overlaps = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
