// The map of the system: clients, gateway, routes, services and instances, with the traffic between them.

import {attribute, keyed, svg, text} from "./dom.js";
import {count, duration, percent, plural, rate, share} from "./format.js";

const WIDTH = 1080;
const BOX = {height: 40, gap: 12};
const COLUMNS = {clients: [4, 104], gateway: [152, 148], routes: [348, 232], services: [640, 212], instances: [898, 180]};
const UNIT = 11, STEP = 14, PER_ROW = 13;
const MOST_ROUTES = 12, MOST_SERVICES = 24;
const FAILING = 0.01;

const STATES = {up: "up", starting: "draining", draining: "draining", joining: "draining", retiring: "draining"};
export const health = (state) => STATES[state] ?? "bad";

// Of a service without an instance that is up: "starting" as long as one starts.
export const availability = (values) => values.up > 0 ? "up"
  : Object.values(values.instances ?? {}).some((each) => health(each.state) === "draining") ? "starting" : "down";

const shorten = (name, most) => name.length <= most ? name : `${name.slice(0, most - 1)}…`;
const traffic = (value) => value > 0 ? 1 + Math.min(7, 1.6 * Math.log10(1 + value)) : 1;
const isFailing = (values) => share(values.errors, values.requests) > FAILING;
const line = (values) => `${rate(values.requests ?? 0)}/s`
  + (values.errors > 0 ? ` · ${percent(share(values.errors, values.requests))} errors` : "")
  + (values.p95 !== undefined ? ` · ${duration(values.p95)}` : "");

class Box {
  constructor() {
    this.rect = svg("rect", {rx: "6", class: "box"});
    this.title = svg("text", {class: "box-title"});
    this.line = svg("text", {class: "box-line"});
    this.full = svg("title");
    this.node = svg("g", {}, this.full, this.rect, this.title, this.line);
  }
  update({x, y, width, title, line: below, failing, idle}) {
    for (const [name, value] of Object.entries({x, y, width, height: BOX.height})) attribute(this.rect, name, String(value));
    attribute(this.rect, "class", `box${failing ? " failing" : ""}${idle ? " idle" : ""}`);
    attribute(this.title, "x", String(x + 10));
    attribute(this.title, "y", String(y + 17));
    attribute(this.line, "x", String(x + 10));
    attribute(this.line, "y", String(y + 32));
    text(this.full, `${title}: ${below}`);
    text(this.title, shorten(title, Math.floor((width - 16) / 7)));
    text(this.line, below);
    attribute(this.line, "class", failing ? "box-line failing" : "box-line");
  }
}

class Edge {
  constructor() { this.node = svg("path", {class: "edge"}); }
  update({from, to, values}) {
    const middle = (from[0] + to[0]) / 2;
    attribute(this.node, "d", `M${from[0]} ${from[1]}C${middle} ${from[1]} ${middle} ${to[1]} ${to[0]} ${to[1]}`);
    attribute(this.node, "stroke-width", traffic(values.requests).toFixed(1));
    attribute(this.node, "class", `edge${isFailing(values) ? " failing" : ""}${values.requests > 0 ? "" : " idle"}`);
  }
}

class Unit {
  constructor() {
    this.rect = svg("rect", {width: String(UNIT), height: String(UNIT), rx: "2"});
    this.cross = svg("path", {class: "cross"});
    this.full = svg("title");
    this.node = svg("g", {}, this.full, this.rect, this.cross);
  }
  update({x, y, name, values}) {
    const state = health(values.state);
    attribute(this.rect, "x", String(x));
    attribute(this.rect, "y", String(y));
    attribute(this.rect, "class", `unit ${state}${values.errors > 0 ? " failing" : ""}`);
    attribute(this.cross, "d", state === "bad" ? `M${x + 3} ${y + 3}l5 5m0 -5l-5 5` : "");
    const numbers = `${rate(values.requests ?? 0)}/s, ${count(values.in_flight ?? 0)} in flight`;
    text(this.full, `${name}: ${values.state}, ${numbers}${values.errors > 0 ? `, ${rate(values.errors)} errors/s` : ""}`);
  }
}

const middle = (box) => box.y + BOX.height / 2;
const right = (box) => [box.x + box.width, middle(box)];
const left = (box) => [box.x, middle(box)];

// Place `entries` ([name, height]) below each other; returns their tops and the height of all.
const stack = (entries) => {
  const tops = [];
  let y = 0;
  for (const height of entries) { tops.push(y); y += height + BOX.gap; }
  return [tops, Math.max(0, y - BOX.gap)];
};

export class SystemMap {
  constructor(parent) {
    this.edges = svg("g");
    this.boxes = svg("g");
    this.units = svg("g");
    this.node = svg("svg", {role: "img", class: "map"}, this.edges, this.units, this.boxes);
    this.heads = svg("g");
    for (const [name, [x]] of Object.entries(COLUMNS)) {
      const head = svg("text", {x: String(x), y: "14", class: "column-title"});
      head.textContent = name[0].toUpperCase() + name.slice(1);
      this.heads.append(head);
    }
    this.node.append(this.heads);
    parent.append(this.node);
    this.shown = [];
    this.chosen = 0;
  }

  // The routes with the most requests, in the order of the sample; chosen again every ten seconds, to keep the map still.
  routes(all, now) {
    const names = Object.keys(all);
    const isStale = this.shown.some((name) => !(name in all));
    if (isStale || now - this.chosen >= 10 || this.shown.length < Math.min(names.length, MOST_ROUTES)) {
      this.chosen = now;
      const busiest = [...names].sort((a, b) => (all[b].requests ?? 0) - (all[a].requests ?? 0)).slice(0, MOST_ROUTES);
      const wanted = new Set(busiest);
      this.shown = names.filter((name) => wanted.has(name));
    }
    return this.shown;
  }

  update(model) {
    const total = model.part("total"), allRoutes = model.part("routes"), allServices = model.part("services");
    const workers = Object.values(model.part("workers"));
    const routeNames = this.routes(allRoutes, model.time ?? 0);
    const serviceNames = Object.keys(allServices).slice(0, MOST_SERVICES);

    const [routeTops, routesHeight] = stack(routeNames.map(() => BOX.height));
    const rows = serviceNames.map((name) => Math.ceil(Object.keys(allServices[name].instances ?? {}).length / PER_ROW));
    const heights = rows.map((number) => Math.max(BOX.height, number * STEP));
    const [serviceTops, servicesHeight] = stack(heights);
    const height = Math.max(routesHeight, servicesHeight, BOX.height);
    const top = 28, centre = top + height / 2 - BOX.height / 2;

    const boxes = [], edges = [], units = [];
    const box = (column, y) => ({x: COLUMNS[column][0], width: COLUMNS[column][1], y});
    const clients = {...box("clients", centre), title: "Clients", idle: !total.requests};
    clients.line = `${count(total.connections ?? 0)} connected`;
    const cpu = workers.reduce((sum, worker) => sum + (worker.cpu ?? 0), 0);
    const gateway = {
      ...box("gateway", centre), title: "Gateway", failing: isFailing(total),
      line: `${plural(workers.length, "worker")} · ${percent(cpu)} CPU`, idle: !total.requests,
    };
    boxes.push(["c", clients], ["g", gateway]);
    edges.push(["c", {from: right(clients), to: left(gateway), values: total}]);

    const places = new Map();
    serviceNames.forEach((name, index) => {
      const values = allServices[name];
      const offset = top + (height - servicesHeight) / 2 + serviceTops[index];
      const place = {
        ...box("services", offset + heights[index] / 2 - BOX.height / 2), title: name, line: line(values),
        failing: isFailing(values), idle: !values.requests,
      };
      const state = availability(values);
      if (state !== "up") {
        place.line = state === "starting" ? "starting" : "no instance is up";
        place.failing = state === "down";
      }
      places.set(name, place);
      boxes.push([`s ${name}`, place]);
      const members = Object.entries(values.instances ?? {});
      const first = COLUMNS.instances[0];
      const tall = (Math.ceil(members.length / PER_ROW) - 1) * STEP + UNIT;
      members.forEach(([instance, each], number) => units.push([`${name} ${instance}`, {
        x: first + (number % PER_ROW) * STEP,
        y: offset + heights[index] / 2 - tall / 2 + Math.floor(number / PER_ROW) * STEP,
        name: instance, values: {...each, state: model.state(name, instance, each)},
      }]));
      if (members.length > 0)
        edges.push([`i ${name}`, {from: right(place), to: [first - 6, offset + heights[index] / 2], values}]);
    });
    routeNames.forEach((name, index) => {
      const values = allRoutes[name];
      const place = {
        ...box("routes", top + (height - routesHeight) / 2 + routeTops[index]), title: name, line: line(values),
        failing: isFailing(values), idle: !values.requests,
      };
      boxes.push([`r ${name}`, place]);
      edges.push([`r ${name}`, {from: right(gateway), to: left(place), values}]);
      for (const service of values.services ?? []) {
        const target = places.get(service);
        // What the cache served does not reach the service; and only one service of a composition may fail.
        const requests = Math.max(0, values.requests - values.hits);
        const forwarded = {requests, errors: isFailing(allServices[service]) ? values.errors : 0};
        if (target !== undefined)
          edges.push([`r ${name} s ${service}`, {from: right(place), to: left(target), values: forwarded}]);
      }
    });
    const left_out = Object.keys(allRoutes).length - routeNames.length;
    attribute(this.node, "viewBox", `0 0 ${WIDTH} ${top + height + 12}`);
    attribute(this.node, "aria-label",
      `${rate(total.requests ?? 0)} requests a second through ${plural(routeNames.length, "route")}`
      + `${left_out > 0 ? ` and ${left_out} more` : ""} to ${plural(serviceNames.length, "service")}`
      + "; the same numbers are in the tables below");
    keyed(this.edges, edges, () => new Edge());
    keyed(this.units, units, () => new Unit());
    keyed(this.boxes, boxes, () => new Box());
  }
}
