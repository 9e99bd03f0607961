// Services with their instances, routes, failures and events.

import {Sparkline} from "./charts.js";
import {$, attribute, el, keyed, text} from "./dom.js";
import {count, duration, NONE, percent, rate, share, time} from "./format.js";
import {availability, health} from "./map.js";

const SIGNS = {up: "●", draining: "◐", bad: "✕"};
const DENSE = 12; // more instances than this are shown as small tiles
const BREAKERS = {closed: "closed", half_open: "half-open", open: "open"};

const fact = (name) => {
  const value = el("dd", {}, NONE);
  return {value, nodes: [el("dt", {}, name), value]};
};

class Tile {
  constructor(service, name, actions) {
    this.sign = el("span", {class: "sign", "aria-hidden": "true"});
    this.state = el("span", {class: "state"});
    this.button = el("button", {type: "button", class: "name"}, name);
    this.button.addEventListener("click", () => actions.showInstance(service, name));
    this.facts = {
      flight: fact("in flight"), latency: fact("latency"), requests: fact("requests"),
      restarts: fact("restarts"), breaker: fact("breaker"),
    };
    this.problem = el("p", {class: "tile-problem"});
    this.action = el("button", {type: "button", class: "small quiet", "data-change": true}, "");
    this.action.addEventListener("click", () => actions.drainOrResume(service, name));
    this.node = el("li", {class: "tile", "data-instance": name, "data-service": service},
      el("p", {class: "tile-head"}, this.sign, this.button, this.state),
      el("dl", {}, ...Object.values(this.facts).map((each) => el("div", {}, ...each.nodes))), this.problem, this.action);
  }

  update({values, state, breaker, mayChange}) {
    const kind = health(state);
    attribute(this.node, "data-state", state);
    attribute(this.node, "data-health", kind);
    text(this.sign, SIGNS[kind]);
    text(this.state, state);
    text(this.facts.flight.value, count(values.in_flight ?? 0));
    text(this.facts.latency.value, duration(values.latency));
    text(this.facts.requests.value, `${rate(values.requests ?? 0)}/s`);
    text(this.facts.restarts.value, values.restarts === undefined ? NONE : count(values.restarts));
    text(this.facts.breaker.value, BREAKERS[breaker] ?? "none");
    this.facts.breaker.value.classList.toggle("is-bad", breaker === "open");
    this.problem.hidden = !values.problem;
    text(this.problem, values.problem ?? "");
    const isTarget = values.restarts === undefined;
    this.action.hidden = !(mayChange && isTarget);
    text(this.action, state === "draining" ? "Resume" : "Drain");
  }
}

class Service {
  constructor(name, actions) {
    this.name = name;
    this.actions = actions;
    this.up = el("span", {class: "badge"});
    this.breaker = el("span", {class: "badge"});
    this.limit = el("span", {class: "badge"});
    this.numbers = Object.fromEntries(
      ["requests", "errors", "p50", "p95", "p99", "cache hits", "retries"].map((each) => [each, fact(each)]));
    this.spark = new Sparkline();
    const button = (label, action) => {
      const made = el("button", {type: "button", class: "small quiet", "data-change": true}, label);
      made.addEventListener("click", action);
      return made;
    };
    this.scale = button("Scale", () => actions.scale(name));
    this.restart = button("Restart", () => actions.restart(name));
    this.tiles = el("ul", {class: "tiles", "aria-label": `Instances of ${name}`});
    this.node = el("article", {class: "panel service", "aria-label": `Service ${name}`},
      el("header", {}, el("h3", {}, name), this.up, this.breaker, this.limit,
        el("div", {class: "tools"}, this.scale, this.restart)),
      el("div", {class: "service-numbers"},
        el("dl", {}, ...Object.values(this.numbers).map((each) => el("div", {}, ...each.nodes))), this.spark.node),
      this.tiles);
  }

  update({model, values, series, mayChange}) {
    const members = Object.entries(values.instances ?? {});
    const up = values.up ?? 0;
    text(this.up, `${count(up)} of ${count(members.length)} up`);
    attribute(this.up, "class", `badge ${up === members.length ? "" : availability(values) === "down" ? "is-bad" : "is-warn"}`);
    this.breaker.hidden = values.breaker === undefined;
    text(this.breaker, `breaker ${BREAKERS[values.breaker] ?? values.breaker}`);
    attribute(this.breaker, "class", `badge ${{open: "is-bad", half_open: "is-warn"}[values.breaker] ?? ""}`);
    this.limit.hidden = values.limit === undefined;
    text(this.limit, `limit ${count(values.limit)}, ${count(values.waiting ?? 0)} waiting`);
    const {numbers} = this;
    text(numbers.requests.value, `${rate(values.requests ?? 0)}/s`);
    const failing = share(values.errors, values.requests);
    text(numbers.errors.value, percent(failing ?? 0));
    numbers.errors.value.classList.toggle("is-bad", failing > 0.01);
    for (const each of ["p50", "p95", "p99"]) text(numbers[each].value, duration(values[each]));
    text(numbers["cache hits"].value, percent(share(values.hits, values.lookups)));
    text(numbers.retries.value, `${rate(values.retries ?? 0)}/s`);
    this.spark.update(series);
    const isLocal = members.some(([, each]) => each.restarts !== undefined);
    this.scale.hidden = this.restart.hidden = !(mayChange && isLocal);
    this.tiles.classList.toggle("dense", members.length > DENSE);
    keyed(this.tiles, members.map(([name, each]) => [name, {
      values: each, state: model.state(this.name, name, each), breaker: values.breaker, mayChange,
    }]),
      (name) => new Tile(this.name, name, this.actions));
  }
}

class Route {
  constructor(name) {
    this.spark = new Sparkline();
    this.cells = Array.from({length: 7}, () => el("td", {class: "number"}));
    this.node = el("tr", {}, el("th", {scope: "row"}, name), el("td", {}, this.spark.node), ...this.cells);
  }
  update({values, series}) {
    this.spark.update(series);
    const failing = share(values.errors, values.requests);
    const texts = [
      `${rate(values.requests)}/s`, percent(failing ?? 0), duration(values.p50), duration(values.p95),
      duration(values.p99), percent(share(values.hits, values.lookups)), `${rate(values.limited ?? 0)}/s`,
    ];
    texts.forEach((value, index) => text(this.cells[index], value));
    this.cells[1].classList.toggle("is-bad", failing > 0.01);
    this.cells[6].classList.toggle("is-warn", values.limited > 0);
  }
}

const definition = (entries) => el("dl", {class: "facts"}, ...entries.filter(([, value]) => value).flatMap(
  ([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

const seconds = (value) => value === null || value === undefined ? "" : duration(value);

const explained = (found) => {
  const route = found.route;
  const entries = [["path", found.canonical_path ?? found.path]];
  if (found.status !== null) entries.push(["refused", `${found.status} ${found.reason}`]);
  if (route) {
    entries.push(["route", `${route.label} (${route.key})`]);
    const parameters = Object.entries(route.params ?? {}).map(([name, value]) => `${name} = ${value}`);
    entries.push(["parameters", parameters.join(", ")]);
    for (const guard of route.guards ?? []) entries.push(["guard", guard]);
    if (route.service) entries.push(["service", `${route.service.name ?? ""} ${route.upstream_path ?? ""}`.trim()]);
    for (const part of route.parts ?? []) entries.push(["part", `${part.key}: GET ${part.upstream_path}`]);
    entries.push(["cache", route.cache], ["timeout", seconds(route.timeout)], ["attempts", String(route.attempts ?? "")]);
  }
  for (const other of (found.others ?? []).slice(0, 3)) entries.push(["not", `${other.label}: ${other.reason}`]);
  return definition(entries);
};

class Failure {
  constructor(failure, actions) {
    let line = {};
    try { line = JSON.parse(failure.line); } catch { /* shown as it is */ }
    const why = line.why ?? (line.status >= 500 ? "the service responded with an error" : "");
    const when = Date.parse(line.time) / 1000;
    const explain = el("button", {type: "button", class: "small quiet"}, "Explain the request");
    const result = el("div", {"aria-live": "polite"});
    explain.addEventListener("click", async () => {
      explain.disabled = true;
      try {
        result.replaceChildren(explained(await actions.explain(line.method, line.target, line.host)));
      } catch (error) {
        result.replaceChildren(el("p", {class: "problem"}, String(error.message)));
        explain.disabled = false;
      }
    });
    this.node = el("li", {}, el("details", {},
      el("summary", {},
        el("time", {}, Number.isFinite(when) ? time(when) : NONE),
        el("span", {class: "badge is-bad"}, String(line.status ?? NONE)),
        el("span", {class: "what"}, `${line.method ?? ""} ${line.target ?? failure.line}`),
        el("span", {class: "why muted"}, [line.instance, why].filter(Boolean).join(": "))),
      el("pre", {tabindex: "0", "aria-label": "Line of the access log"}, failure.line), explain, result));
  }
  update() { /* a failure does not change */ }
}

const LOUD = new Set(["end", "down", "ejection", "alert", "store"]);

class Event {
  constructor(event) {
    this.node = el("li", {class: LOUD.has(event.kind) ? "loud" : ""},
      el("time", {}, time(event.time)), el("span", {class: "badge"}, event.kind), el("span", {class: "what"}, event.text));
  }
  update() { /* an event does not change */ }
}

export class Panels {
  constructor(actions) {
    this.actions = actions;
    this.rows = $("route-table").tBodies[0];
    this.events = this.failures = null;
  }

  update(model, mayChange) {
    const services = Object.entries(model.part("services")), routes = Object.entries(model.part("routes"));
    keyed($("service-list"), services.map(([name, values]) => [name, {
      model, values, series: model.services.get(name), mayChange,
    }]),
      (name) => new Service(name, this.actions));
    keyed(this.rows, routes.map(([name, values]) => [name, {values, series: model.routes.get(name)}]),
      (name) => new Route(name));
    $("no-services").hidden = services.length > 0;
    $("no-routes").hidden = routes.length > 0;
    $("routes-box").hidden = routes.length === 0;
    keyed($("failure-list"), model.failures.map((each) => [`${each.number} ${each.line}`, each]),
      (key, failure) => new Failure(failure, this.actions));
    keyed($("event-list"), model.events.map((each) => [each.seq, each]), (key, event) => new Event(event));
    for (const [list, none, number] of [
      ["failure-list", "no-failures", model.failures.length], ["event-list", "no-events", model.events.length],
    ]) {
      $(list).hidden = number === 0;
      $(none).hidden = number > 0;
    }
  }
}
