// The four charts of the overview (uPlot), and sparklines.

import {attribute, el, svg, text} from "./dom.js";
import {count, duration, durationTick, NONE, percent, rate, share, time} from "./format.js";
import {SECONDS} from "./model.js";

const CARDS = [
  {
    key: "requests", title: "Requests", format: (value) => `${rate(value)}/s`,
    series: [
      {column: "requests", name: "requests", colour: "--accent", fill: true},
      {column: "errors", name: "errors", colour: "--bad"},
    ],
    value: (total) => [rate(total.requests ?? 0), "/s"],
    note: (total) => `${rate(total.errors ?? 0)} errors/s · ${percent(share(total.errors, total.requests) ?? 0)}`,
    isBad: (total) => share(total.errors, total.requests) > 0.01,
    least: 1,
  },
  {
    key: "latency", title: "Latency, p95", format: duration, tick: durationTick,
    series: [
      {column: "p50", name: "p50", colour: "--muted"},
      {column: "p95", name: "p95", colour: "--accent", fill: true},
      {column: "p99", name: "p99", colour: "--accent", dash: [4, 3]},
    ],
    value: (total) => [duration(total.p95), ""],
    note: (total) => `p50 ${duration(total.p50)} · p99 ${duration(total.p99)}`,
    least: 0.002,
  },
  {
    key: "cache", title: "Cache hit ratio", format: percent,
    series: [{column: "ratio", name: "hit ratio", colour: "--accent", fill: true}],
    value: (total) => [percent(share(total.hits, total.lookups)), ""],
    note: (total) => total.lookups > 0 ? `${rate(total.hits)} of ${rate(total.lookups)} lookups/s` : "no lookups",
    least: 1, most: 1,
  },
  {
    key: "in-flight", title: "In flight", format: count,
    series: [
      {column: "in_flight", name: "in flight", colour: "--accent", fill: true},
      {column: "limited", name: "rate-limited/s", colour: "--warn", dash: [4, 3]},
    ],
    value: (total) => [count(total.in_flight ?? 0), ""],
    note: (total) => `${rate(total.limited ?? 0)} rate-limited/s · ${count(total.connections ?? 0)} connections`,
    least: 4,
  },
];

const HEIGHT = 132;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Card {
  constructor(settings) {
    this.settings = settings;
    this.number = el("span", {class: "big"});
    this.unit = el("span", {class: "unit-text"});
    this.note = el("p", {class: "muted note"});
    this.plot = el("div", {class: "plot", role: "img"});
    const keys = settings.series.length > 1
      ? [el("ul", {class: "keys", "aria-hidden": "true"}, ...settings.series.map((each) =>
        el("li", {class: `key ${each.colour.slice(2)}${each.dash ? " dashed" : ""}`}, each.name)))]
      : [];
    this.node = el("article", {class: "panel card", "aria-label": settings.title},
      el("h3", {}, settings.title), el("p", {class: "value"}, this.number, this.unit), this.note, this.plot, ...keys);
    this.chart = null;
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  resize() {
    const width = Math.floor(this.plot.clientWidth);
    if (this.chart !== null && width > 0 && width !== this.chart.width) this.chart.setSize({width, height: HEIGHT});
  }

  // Charts take their colours when they are made.
  restyle() {
    this.chart?.destroy();
    this.chart = null;
  }

  make(data) {
    const {series, format, tick, least, most} = this.settings;
    const axis = {
      stroke: colour("--muted"), font: "11px system-ui, sans-serif", ticks: {show: false},
      grid: {stroke: colour("--line"), width: 1},
    };
    this.chart = new uPlot({
      width: Math.max(160, Math.floor(this.plot.clientWidth)), height: HEIGHT,
      padding: [6, 16, 0, 0], legend: {show: false},
      cursor: {y: false, points: {size: 5}, drag: {setScale: false}, sync: {key: "passerelle"}},
      scales: {
        x: {range: (plot, low, high) => [high - SECONDS, high]},
        y: {range: (plot, low, high) => [0, most ?? Math.max(least, (high ?? 0) * 1.15)]},
      },
      axes: [
        {...axis, space: 70, size: 28, gap: 9, grid: {show: false},
          values: (plot, splits) => splits.map((at) => time(at).slice(0, 5))},
        {...axis, size: 52, space: 36, values: (plot, splits) => splits.map((value) => (tick ?? format)(value))},
      ],
      series: [{}, ...series.map((each) => ({
        stroke: colour(each.colour), width: 1.5, dash: each.dash, points: {show: false}, spanGaps: false,
        fill: each.fill ? colour("--wash") : undefined,
      }))],
      hooks: {setCursor: [(plot) => this.point(plot.cursor.idx)]},
    }, data, this.plot);
  }

  // Show the values at the cursor in place of the current ones.
  point(index) {
    this.pointed = index ?? null;
    if (this.data !== undefined) this.describe();
  }

  describe() {
    const at = this.pointed;
    if (at === null || at === undefined || this.data[0][at] === undefined) { text(this.note, this.current); return; }
    const values = this.settings.series.map((each, index) => {
      const value = this.data[index + 1][at];
      return `${each.name} ${value === null ? NONE : this.settings.format(value)}`;
    });
    text(this.note, `${time(this.data[0][at])}  ${values.join(" · ")}`);
  }

  update(model) {
    const total = model.part("total");
    const [number, unit] = this.settings.value(total);
    text(this.number, number);
    text(this.unit, unit);
    this.current = this.settings.note(total);
    this.node.classList.toggle("failing", this.settings.isBad?.(total) ?? false);
    attribute(this.plot, "aria-label", `${this.settings.title}: ${number}${unit}; ${this.current}`);
    this.data = [model.total.columns.time, ...this.settings.series.map((each) => model.total.columns[each.column])];
    if (this.data[0].length > 0) {
      if (this.chart === null) this.make(this.data); else this.chart.setData(this.data);
    }
    this.describe();
  }
}

export class Charts {
  constructor(parent) {
    this.cards = CARDS.map((settings) => new Card(settings));
    parent.append(...this.cards.map((card) => card.node));
  }
  update(model) { for (const card of this.cards) card.update(model); }
  restyle() { for (const card of this.cards) card.restyle(); }
}

const WIDTH = 96, TALL = 22;

export class Sparkline {
  constructor() {
    this.path = svg("path", {class: "spark"});
    this.node = svg("svg", {
      width: WIDTH, height: TALL, viewBox: `0 0 ${WIDTH} ${TALL}`, "aria-hidden": "true", class: "sparkline",
    }, this.path);
  }
  update(series) {
    const values = series?.columns.requests ?? [];
    const most = Math.max(1e-9, ...values);
    const step = WIDTH / (series === undefined ? 1 : series.length - 1);
    const first = WIDTH - step * (values.length - 1);
    attribute(this.path, "d", values.map((value, index) =>
      `${index ? "L" : "M"}${(first + index * step).toFixed(1)} ${(TALL - 1.5 - (TALL - 3) * value / most).toFixed(1)}`,
    ).join(""));
  }
}
