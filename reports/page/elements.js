// Elements and figures in words: what the page draws with. Knows nothing of a run.
"use strict";

/** An element with attributes and children; text is always text, never markup. */
function el(tag, attributes = {}, ...children) {
  const drawn = ["svg", "path", "g", "line", "text", "rect", "title"].includes(tag);
  const node = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== false));
  return node;
}

/** Plotly reads some markup in texts. */
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

/** Three significant digits, as the server writes them. */
function significant(number, digits = 3) {
  const size = Math.abs(number);
  if (size === 0) return "0";
  if (size < 1e-4 || size >= 1e6) return number.toExponential(digits - 1);
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return number.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** Half an interval's width to the decimals of its value. */
function spreadOf(number, width) {
  if (!width) return "";
  const decimals = significant(number).split(".")[1]?.length ?? 0;
  const text = width.toFixed(decimals);
  return ` ± ${Number(text) ? text : significant(width, 1)}`;
}

const seconds = (amount) => (amount >= 5400 ? `${significant(amount / 3600)} h` : amount >= 90 ? `${significant(amount / 60)} min` : `${significant(amount, 2)} s`);
