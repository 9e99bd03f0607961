// What the page knows: the last sample and series of fixed length. Nothing here grows with time.

export const SECONDS = 600;
export const SPARK = 60;
const MOST_EVENTS = 100;
const MOST_FAILURES = 50;
const MARKED = {end: "ended", down: "down", ejection: "ejected"};
const MARK_MS = 3000;

// A JSON merge patch (RFC 7396). Without a prototype, a route named __proto__ is a key as any other.
export const merge = (value, patch) => {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const result = Object.create(null);
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    for (const key of Object.keys(value)) result[key] = value[key];
  for (const key of Object.keys(patch))
    if (patch[key] === null) delete result[key]; else result[key] = merge(result[key], patch[key]);
  return result;
};

export class Series {
  constructor(names, length) {
    this.names = names;
    this.length = length;
    this.columns = Object.fromEntries(names.map((name) => [name, []]));
  }
  add(values) {
    for (const name of this.names) {
      const column = this.columns[name];
      column.push(values[name] ?? null);
      if (column.length > this.length) column.shift();
    }
  }
}

const TOTAL = ["time", "requests", "errors", "p50", "p95", "p99", "ratio", "in_flight", "limited"];

const totals = (time, total) => ({
  ...total, time, ratio: total.lookups > 0 ? total.hits / total.lookups : null,
});

export class Model {
  constructor() {
    this.sample = Object.create(null);
    this.status = null;
    this.total = new Series(TOTAL, SECONDS);
    this.routes = new Map();
    this.services = new Map();
    this.events = [];
    this.failures = [];
    this.lastEvent = 0;
    this.marks = new Map();
  }

  get time() { return this.sample.time; }

  // Parts of a sample, also before the first one.
  part(name) { return this.sample[name] ?? {}; }

  history(found) {
    this.total = new Series(TOTAL, SECONDS);
    const total = found.total ?? {};
    (found.times ?? []).forEach((time, index) => {
      const values = {};
      for (const [key, column] of Object.entries(total)) values[key] = column[index];
      this.total.add(totals(time, values));
    });
    for (const [group, target] of [["routes", this.routes], ["services", this.services]]) {
      target.clear();
      for (const [name, columns] of Object.entries(found[group] ?? {})) {
        const series = new Series(["requests"], SPARK);
        for (const value of (columns.requests ?? []).slice(-SPARK)) series.add({requests: value ?? 0});
        target.set(name, series);
      }
    }
  }

  take(sample) {
    const last = this.total.columns.time.at(-1) ?? 0;
    this.sample = sample;
    if (sample.time <= last) return;
    this.total.add(totals(sample.time, this.part("total")));
    for (const [group, target] of [["routes", this.routes], ["services", this.services]]) {
      const found = this.part(group);
      for (const name of target.keys()) if (!(name in found)) target.delete(name);
      for (const name of Object.keys(found)) {
        let series = target.get(name);
        if (series === undefined) target.set(name, series = new Series(["requests"], SPARK));
        series.add({requests: found[name].requests ?? 0});
      }
    }
  }

  // The state of an instance. One that has just ended may run again before the next sample: it is shown nevertheless.
  state(service, name, values) {
    const mark = this.marks.get(`${service} ${name}`);
    return mark !== undefined && mark.until > Date.now() ? mark.state : values.state ?? "unknown";
  }

  event(event) {
    if (event.seq <= this.lastEvent) return false;
    this.lastEvent = event.seq;
    const state = MARKED[event.kind];
    if (state !== undefined && event.instance && Date.now() - event.time * 1000 < MARK_MS) {
      for (const [key, mark] of this.marks) if (mark.until <= Date.now()) this.marks.delete(key);
      this.marks.set(`${event.service} ${event.instance}`, {state, until: Date.now() + MARK_MS});
    }
    this.events.unshift(event);
    this.events.length = Math.min(this.events.length, MOST_EVENTS);
    return true;
  }

  // `number` counts from the start of the gateway: a smaller one than the last is of a new gateway.
  failed(found) {
    const known = new Set(this.failures.map((failure) => `${failure.number} ${failure.line}`));
    for (const failure of found)
      if (!known.has(`${failure.number} ${failure.line}`)) this.failures.unshift(failure);
    this.failures.length = Math.min(this.failures.length, MOST_FAILURES);
  }

  // For tests: the number of values that are kept.
  size() {
    let values = this.events.length + this.failures.length;
    for (const series of [this.total, ...this.routes.values(), ...this.services.values()])
      for (const column of Object.values(series.columns)) values += column.length;
    return values;
  }
}
