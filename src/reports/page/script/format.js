// Figures as text.

const MISSING = "–";

const isNumber = (value) => typeof value === "number";

const percent = (share) => (isNumber(share) ? (100 * share).toFixed(1) : MISSING);

/** A mean with the half width of its interval, in percent: `[0.618, 0.01]` is 61.8 ± 1.0. */
function interval(mean) {
  if (!mean || !isNumber(mean[0])) return MISSING;
  return isNumber(mean[1]) ? [percent(mean[0]), element("span", { class: "half" }, ` ± ${percent(mean[1])}`)] : percent(mean[0]);
}

const intervalText = (mean) => percent(mean[0]) + (isNumber(mean[1]) ? ` ± ${percent(mean[1])}` : "") + " %";

const fixed = (number) =>
  isNumber(number) ? number.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 }) : MISSING;

const megabytes = (bytes) => fixed(isNumber(bytes) ? bytes / 1e6 : null);

const short = (value) => (isNumber(value) ? String(Number(value.toPrecision(4))) : value || MISSING);

const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** A method with the options that tell it from others. */
const labelOf = (row) => [row.method, row.options].filter(Boolean).join(", ");

const unique = (values) => [...new Set(values)];
