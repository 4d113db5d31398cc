// Elements of HTML and of SVG. Text of records becomes text nodes and attributes, and is never parsed.

const SVG = document.querySelector("svg").namespaceURI;

function completed(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const element = (name, attributes = {}, ...children) => completed(document.createElement(name), attributes, children);

const drawing = (name, attributes = {}, ...children) =>
  completed(document.createElementNS(SVG, name), attributes, children);
