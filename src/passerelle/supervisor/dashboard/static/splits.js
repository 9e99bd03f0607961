// Splits: which share of the users each service of a route receives, and a button to change it.

import {request} from "./actions.js";
import {$, el, keyed, text} from "./dom.js";
import {count, duration, percent} from "./format.js";

const EVERY = 5000; // milliseconds
const WHOLE = 1000;

class Side {
  constructor(route, side, first, change) {
    this.cells = Array.from({length: 4}, () => el("td", {class: "number"}));
    this.button = el("button", {type: "button", class: "small quiet", "data-change": true}, "Change");
    this.button.addEventListener("click", change);
    this.isFirst = first;
    this.node = el("tr", {}, el("th", {scope: "row"}, first ? route : ""), el("td", {}, side), ...this.cells,
      el("td", {}, first ? this.button : ""));
  }

  update({weight, counts, mayChange}) {
    const failing = counts.requests > 0 ? counts.failed / counts.requests : 0;
    const texts = [percent(weight / WHOLE), count(counts.requests), percent(failing), duration(counts.p50 ?? undefined)];
    this.cells.forEach((cell, index) => text(cell, texts[index]));
    this.cells[2].classList.toggle("is-bad", failing > 0.01);
    this.button.hidden = !mayChange;
  }
}

export class Splits {
  constructor(actions) {
    this.actions = actions;
    this.rows = $("split-table").tBodies[0];
    this.routes = {};
    this.timer = null;
  }

  // Show the splits of a gateway that has some. Without any, nothing is requested again.
  start(has) {
    clearInterval(this.timer);
    this.timer = has ? setInterval(() => this.load(), EVERY) : null;
    if (has) this.load(); else this.show({});
  }

  async load() {
    try { this.show((await request("/split")).routes); } catch { /* the next one may succeed */ }
  }

  show(routes) {
    this.routes = routes;
    $("splits").hidden = Object.keys(routes).length === 0;
    const rows = Object.entries(routes).flatMap(([route, {weights, sides, held}]) =>
      Object.entries(weights).map(([side, weight], index) => [`${route}\n${side}\n${index === 0}`, {
        route, side, first: index === 0, weight, counts: sides[side], mayChange: this.actions.mayChange && !held,
      }]));
    keyed(this.rows, rows, (key, {route, side, first}) => new Side(route, side, first, () => this.change(route)));
  }

  change(route) {
    const {weights} = this.routes[route];
    const [old, ...others] = Object.keys(weights);
    const inputs = others.map((side, index) => el("input", {id: `dialog-weight-${index}`, type: "number", min: "0",
      max: String(WHOLE), required: true, value: String(weights[side])}));
    const path = (wanted) => `/split?${new URLSearchParams({
      route, weights: Object.entries(wanted).map(([side, weight]) => `${side}=${weight}`).join(",")})}`;
    this.actions.confirm({
      title: `Split ${route}`, confirm: "Change", method: "POST", doing: `Changing the split of ${route}`,
      body: [
        el("p", {}, `Per mille of the users; ${old} receives the rest. The file is not changed.`),
        ...others.map((side, index) =>
          el("p", {}, el("label", {for: `dialog-weight-${index}`}, side), inputs[index])),
      ],
      path: () => path(Object.fromEntries(others.map((side, index) => [side, inputs[index].value]))),
      undo: (result) => {
        if (result === null) return undefined;
        this.load();
        return () => this.actions.change(path(weights), "POST", `Changing the split of ${route} back`);
      },
    });
  }
}
