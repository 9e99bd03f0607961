// Shadows: how the responses of second services differ from those that clients receive.

import {request} from "./actions.js";
import {$, el, keyed, text} from "./dom.js";
import {count, duration} from "./format.js";

const EVERY = 10000; // milliseconds: the gateway merges the counts of its workers for each request
const MOST = 3; // differences of a route

const sum = (counts) => Object.values(counts).reduce((total, each) => total + each, 0);

class Shadow {
  constructor(route) {
    this.cells = Array.from({length: 5}, () => el("td", {class: "number"}));
    this.found = el("td");
    this.node = el("tr", {}, el("th", {scope: "row"}, route), ...this.cells, this.found);
  }

  update({compared, differing, failed, dropped, latency, findings, verdict}) {
    const {old, new: later} = latency;
    const texts = [count(compared), count(differing), count(sum(failed)), count(sum(dropped)),
      `${duration(old.p50)} → ${duration(later.p50)}`];
    this.cells.forEach((cell, index) => text(cell, texts[index]));
    this.cells[1].classList.toggle("is-bad", differing > 0);
    this.cells[2].classList.toggle("is-bad", sum(failed) > 0);
    const real = findings.filter(({noise}) => !noise).slice(0, MOST);
    text(this.found, real.map(({path, kind, times}) => `${path || "(whole)"} ${kind} ×${times}`).join(", ") || verdict);
  }
}

export class Shadows {
  constructor() {
    this.rows = $("shadow-table").tBodies[0];
    this.timer = null;
  }

  // Show the shadows of a gateway that has some. Without any, nothing is requested again.
  async start() {
    clearInterval(this.timer);
    this.timer = await this.load() ? setInterval(() => this.load(), EVERY) : null;
  }

  async load() {
    try {
      const {routes} = await request("/shadow");
      $("shadows").hidden = Object.keys(routes).length === 0;
      keyed(this.rows, Object.entries(routes), (route) => new Shadow(route));
      return !$("shadows").hidden;
    } catch { return true; /* the next one may succeed */ }
  }
}
