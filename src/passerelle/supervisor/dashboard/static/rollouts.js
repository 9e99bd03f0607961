// Rollouts: the step that each has reached, what was counted in it, and buttons to start, pause, resume, skip and abort.

import {request} from "./actions.js";
import {$, attribute, el, keyed, text} from "./dom.js";
import {count, moment, perMille, plural} from "./format.js";

const EVERY = 5000; // milliseconds

const WORDS = {idle: "not started", shadow: "comparing", rolled_back: "rolled back"};
const KINDS = {rolled_back: "is-bad", aborted: "is-warn", paused: "is-warn"};
const ACTIVE = ["shadow", "running", "paused"];

// The buttons of a status, and what the confirmation of each says.
const BUTTONS = {
  start: "The new service receives the first share of the users. Each further step is taken only while it is not worse.",
  resume: "The rollout goes on from the step that it has reached. The step begins again, with new counts.",
  pause: "The shares stay as they are until the rollout is resumed. Nothing is judged meanwhile.",
  skip: "The rollout takes its next step at once, without the evidence that this step waits for.",
  abort: "All users return to the old service at once, and the rollout ends.",
};
const offered = (status) => {
  if (status === "paused") return ["resume", "skip", "abort"];
  return ACTIVE.includes(status) ? ["pause", "skip", "abort"] : ["start"];
};
const title = (name) => name[0].toUpperCase() + name.slice(1);

class Rollout {
  constructor(name, act) {
    this.badge = el("span", {class: "badge"});
    this.buttons = Object.fromEntries(Object.keys(BUTTONS).map((action) => {
      const button = el("button", {type: "button", class: "small", "data-change": true}, title(action));
      button.addEventListener("click", () => act(action, button));
      return [action, button];
    }));
    this.sides = el("span", {class: "muted"});
    this.steps = el("ol", {class: "steps", "aria-label": `Steps of ${name}`});
    this.reason = el("p");
    this.counts = el("dl", {class: "facts"});
    this.node = el("article", {class: "panel rollout", "data-rollout": name},
      el("header", {}, el("h3", {}, name), this.badge, this.sides,
        el("div", {class: "tools"}, ...Object.values(this.buttons))),
      this.steps, this.reason, this.counts);
  }

  update({status, steps, step, share, old, new: later, reason, counts, evidence, problem, mayChange, ...more}) {
    const {since: begun, waits_for: waits} = more;
    text(this.badge, WORDS[status] ?? status);
    attribute(this.badge, "class", `badge ${KINDS[status] ?? ""}`);
    attribute(this.node, "data-status", status);
    text(this.sides, `${old} → ${later}, ${perMille(share)} of the users on ${later}`);
    for (const [action, button] of Object.entries(this.buttons))
      button.hidden = !mayChange || !offered(status).includes(action);

    // The step of the shadow has the number -1.
    const isActive = ACTIVE.includes(status);
    const names = [...(status === "shadow" || counts.comparisons > 0 ? [["shadow", -1]] : []),
      ...steps.map((each, index) => [perMille(each), index])];
    this.steps.replaceChildren(...names.map(([name, index]) => {
      const isNow = isActive && index === step;
      const state = status === "done" || (isActive && index < step) ? "done" : isNow ? "now"
        : status === "rolled_back" && index === step ? "failed" : "";
      return el("li", {class: state, "aria-current": isNow ? "step" : undefined},
        name, el("span", {class: "hidden-text"}, state && ` (${state})`));
    }));

    const next = waits && status !== "paused" ? `waits for ${waits}` : "";
    text(this.reason, [reason, next, problem].filter((each) => each).join("; "));
    this.reason.classList.toggle("is-bad", status === "rolled_back" || Boolean(problem));
    const side = ({requests, failed, slow}) => `${plural(requests, "request")}, ${count(failed)} failed, ${count(slow)} slow`;
    const judged = ({events, requests}) => `${count(events)} of ${plural(requests, "request")}`;
    const facts = [];
    if (counts.old) facts.push([old, side(counts.old)], [later, side(counts.new)]);
    // What ended it: `events` are failed or slow requests.
    else if (evidence.new) facts.push([old, judged(evidence.old)], [later, judged(evidence.new)]);
    if (counts.comparisons > 0)
      facts.push(["compared", `${count(counts.comparisons)}, of which ${count(counts.differences)} differ`]);
    if (begun) facts.push([isActive ? "since" : "ended", moment(begun)]);
    this.counts.replaceChildren(...facts.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]));
  }
}

export class Rollouts {
  constructor(actions) {
    this.actions = actions;
    this.timer = null;
  }

  // Show the rollouts of a gateway that has some. Without any, nothing is requested again.
  start(has) {
    clearInterval(this.timer);
    this.timer = has ? setInterval(() => this.load(), EVERY) : null;
    if (has) this.load(); else this.show({});
  }

  async load() {
    try { this.show((await request("/rollout")).routes); } catch { /* the next one may succeed */ }
  }

  show(routes) {
    $("rollouts").hidden = Object.keys(routes).length === 0;
    const shown = Object.entries(routes).map(([name, status]) =>
      [name, {...status, mayChange: this.actions.mayChange}]);
    keyed($("rollout-list"), shown, (name) => new Rollout(name, (action) => this.act(name, action)));
  }

  act(route, action) {
    this.actions.confirm({
      title: `${title(action)} the rollout of ${route}?`, confirm: title(action), method: "POST",
      doing: `${title(action)} ${route}`,
      body: [el("p", {}, BUTTONS[action])],
      path: () => `/rollout?${new URLSearchParams({route, action})}`,
      undo: (result) => {
        if (result !== null) this.load();
        // Only a pause and its end can be undone.
        const back = {pause: "resume", resume: "pause"}[action];
        return result === null || back === undefined ? undefined : () => this.actions.change(
          `/rollout?${new URLSearchParams({route, action: back})}`, "POST", `${title(back)} ${route}`);
      },
    });
  }
}
