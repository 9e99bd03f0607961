// Connects the stream of the admin port with the page.

import {Actions, request, Unauthorized} from "./actions.js";
import {Charts} from "./charts.js";
import {$, attribute, el, text} from "./dom.js";
import {percent} from "./format.js";
import {health, SystemMap} from "./map.js";
import {merge, Model} from "./model.js";
import {Panels} from "./panels.js";
import {Rollouts} from "./rollouts.js";
import {Shadows} from "./shadows.js";
import {Splits} from "./splits.js";

const RENDER_EVERY = 200; // milliseconds
const ANNOUNCE_EVERY = 5000;
const VERDICT_EVERY = 5000;
const RETRY = 3000;

const model = new Model();
const actions = new Actions(model, () => begin());
const charts = new Charts($("cards"));
const map = new SystemMap($("map-box"));
const panels = new Panels(actions);
const splits = new Splits(actions);
const rollouts = new Rollouts(actions);
const shadows = new Shadows();
let settings = {};
let stream = null;
let messages = 0;

// ---- rendering: at most one for a few messages, and none while the page is hidden

let isDue = false, rendered = 0;
const render = () => {
  if (isDue) return;
  isDue = true;
  const wait = Math.max(0, RENDER_EVERY - (performance.now() - rendered));
  setTimeout(() => requestAnimationFrame(() => {
    isDue = false;
    rendered = performance.now();
    charts.update(model);
    map.update(model);
    panels.update(model, actions.mayChange);
    for (const button of document.querySelectorAll(".bar [data-change]")) button.hidden = !actions.mayChange;
    text($("where"), model.status ? `${model.status.config ?? ""} · ${model.status.listen}` : "");
  }), wait);
};

// ---- announcements for screen readers: changes of health, at most one in five seconds

const waiting = [];
let announcing = false;
const announce = (message) => {
  if (waiting.length < 10) waiting.push(message);
  if (announcing) return;
  announcing = true;
  const speak = () => {
    if (waiting.length === 0) { announcing = false; return; }
    const more = waiting.length > 3 ? ` and ${waiting.length - 3} more changes` : "";
    text($("announcer"), waiting.splice(0).slice(0, 3).join("; ") + more);
    setTimeout(speak, ANNOUNCE_EVERY);
  };
  speak();
};

const announceHealth = (before, after) => {
  for (const [service, {instances = {}}] of Object.entries(after.services ?? {}))
    for (const [name, {state}] of Object.entries(instances)) {
      const known = before.services?.[service]?.instances?.[name]?.state;
      if (known !== undefined && health(known) !== health(state)) announce(`${name} is ${state}`);
    }
};

// ---- the stream

const show = (state, words) => {
  attribute($("live"), "data-state", state);
  text($("live-text"), words);
  document.body.classList.toggle("stale", state !== "live");
};

const notice = (words) => {
  text($("notice"), words);
  $("notice").hidden = words === "";
};

const take = (sample) => {
  messages += 1;
  announceHealth(model.sample, sample);
  model.take(sample);
  render();
};

const loadHistory = async () => {
  const [history, status, events] = await Promise.all([request("/history"), request("/status"), request("/events")]);
  model.history(history);
  model.status = status;
  events.events.slice(-100).forEach((event) => model.event(event));
  text($("footer"), `passerelle ${status.version} · pid ${status.pid} · this page keeps ten minutes`);
  notice((status.config_problems ?? []).length > 0
    ? `The last configuration was refused: ${status.config_problems.join("; ")}` : "");
  render();
};

const startCrossing = (has) => {
  splits.start(has.splits);
  rollouts.start(has.rollouts);
};

const connect = () => {
  stream?.close();
  stream = new EventSource("/live");
  stream.addEventListener("snapshot", (message) => {
    show("live", "Live");
    const sample = merge({}, JSON.parse(message.data));
    if (sample.time - (model.total.columns.time.at(-1) ?? 0) > 3) loadHistory().catch(() => {});
    take(sample);
  });
  stream.addEventListener("change", (message) => take(merge(model.sample, JSON.parse(message.data))));
  stream.addEventListener("failures", (message) => { model.failed(JSON.parse(message.data)); render(); });
  stream.addEventListener("event", (message) => {
    const event = JSON.parse(message.data);
    if (!model.event(event)) return;
    if (event.kind === "reload") {
      loadHistory().catch(() => {});
      request("/dashboard/settings").then(startCrossing).catch(() => {});
      shadows.start();
    }
    if (event.kind === "split") splits.load();
    if (event.kind === "rollout") { splits.load(); rollouts.load(); }
    render();
  });
  stream.addEventListener("error", () => {
    show("lost", "Connection lost, retrying");
    // The browser connects again by itself, except after an error status.
    if (stream.readyState === EventSource.CLOSED) setTimeout(begin, RETRY);
  });
};

// ---- the verdict

const verdict = (each) => {
  const next = each.next_step && each.next_step !== "nothing" ? [el("span", {}, `Next: ${each.next_step}`)] : [];
  const estimate = each.estimate ? [el("span", {}, String(each.estimate))] : [];
  const sure = each.is_bottleneck ? [el("span", {}, `confidence ${percent(each.confidence)}`)] : [];
  return el("li", {}, el("p", {class: "cause"}, String(each.text)),
    el("p", {class: "muted consequences"}, ...next, ...estimate, ...sure));
};

const showVerdict = async () => {
  try {
    const found = await request("/diagnose");
    const verdicts = found.verdicts ?? [];
    $("verdict").hidden = verdicts.length === 0;
    attribute($("verdict"), "data-kind", verdicts[0]?.is_bottleneck ? "found" : "none");
    $("verdict-body").replaceChildren(el("ol", {}, ...verdicts.slice(0, 3).map(verdict)));
  } catch { $("verdict").hidden = true; }
};

// ---- the theme

const THEMES = {auto: "auto", light: "light", dark: "dark"};
const theme = () => document.documentElement.dataset.theme ?? "auto";
const setTheme = (name) => {
  if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  try { localStorage.setItem("passerelle-theme", name); } catch { /* it lasts as long as the page */ }
  restyle();
};
const restyle = () => {
  text($("theme-name"), THEMES[theme()]);
  charts.restyle();
  render();
};
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(theme()) + 1) % names.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);

// ---- the start

let verdictTimer = null;
const begin = async () => {
  try {
    settings = await request("/dashboard/settings");
    actions.mayChange = settings.may_change;
    $("login").hidden = settings.may_change || !settings.has_token;
    $("prometheus").hidden = !settings.prometheus;
    if (settings.prometheus) attribute($("prometheus"), "href", settings.prometheus);
    await loadHistory();
    startCrossing(settings);
    shadows.start();
    connect();
    if (settings.diagnose && verdictTimer === null) {
      showVerdict();
      verdictTimer = setInterval(showVerdict, VERDICT_EVERY);
    }
  } catch (error) {
    if (error instanceof Unauthorized) {
      show("lost", "Signed out");
      notice("This admin port shows nothing without its token.");
      $("login").hidden = false;
      actions.login();
      return;
    }
    show("lost", "Connection lost, retrying");
    setTimeout(begin, RETRY);
  }
};

// For tests: what the page holds.
window.passerelle = {
  sizes: () => ({messages, values: model.size(), nodes: document.getElementsByTagName("*").length}),
};

restyle();
begin();
