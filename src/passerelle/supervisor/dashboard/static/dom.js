// Elements. Texts from outside only ever become text nodes: names of routes and instances are not trusted.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const text = (node, value) => {
  if (node.textContent !== value) node.textContent = value;
};

export const attribute = (node, name, value) => {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
};

// Make the children of `parent` those of `keys`, in this order: `make(key)` returns {node, update(value)}.
const lists = new WeakMap();
export const keyed = (parent, entries, make) => {
  let known = lists.get(parent);
  if (known === undefined) lists.set(parent, known = new Map());
  const wanted = new Set(entries.map(([key]) => key));
  for (const [key, item] of known)
    if (!wanted.has(key)) { item.node.remove(); known.delete(key); }
  let place = parent.firstElementChild;
  for (const [key, value] of entries) {
    let item = known.get(key);
    if (item === undefined) known.set(key, item = make(key, value));
    item.update(value);
    if (item.node === place) place = place.nextElementSibling;
    else parent.insertBefore(item.node, place);
  }
};
