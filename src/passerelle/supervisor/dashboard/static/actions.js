// Requests to the admin port: changes with a confirmation, and an undo where there is one.

import {$, el, text} from "./dom.js";
import {bytes, count, duration, NONE, rate} from "./format.js";

const MOST_TOASTS = 4;
const TOAST_SECONDS = 12;

export class Unauthorized extends Error {}

export const request = async (path, options = {}) => {
  const response = await fetch(path, {
    ...options, credentials: "same-origin", cache: "no-store", redirect: "error",
    headers: {"Passerelle-Admin": "1", ...options.headers},
  });
  if (response.status === 401) throw new Unauthorized(await response.text());
  const isJson = (response.headers.get("Content-Type") ?? "").startsWith("application/json");
  const body = isJson ? await response.json() : await response.text();
  if (!response.ok) throw new Error(isJson && body.problems ? body.problems.join("; ") : String(body).trim());
  return body;
};

const query = (values) => new URLSearchParams(values).toString();
const instancePath = (service, name) =>
  `/services/${encodeURIComponent(service)}/instances/${encodeURIComponent(name)}`;

class Toasts {
  constructor(parent) { this.parent = parent; }

  show(message, undo) {
    const words = el("span", {}, message);
    const close = el("button", {type: "button", class: "small quiet", "aria-label": "Dismiss"}, "✕");
    const toast = el("div", {class: "toast"}, words);
    const remove = () => toast.remove();
    if (undo !== undefined) {
      const button = el("button", {type: "button", class: "small"}, "Undo");
      button.addEventListener("click", () => { remove(); undo(); });
      toast.append(button);
    }
    close.addEventListener("click", remove);
    toast.append(close);
    this.parent.append(toast);
    while (this.parent.childElementCount > MOST_TOASTS) this.parent.firstElementChild.remove();
    // What can be undone stays until it is dismissed.
    if (undo === undefined) setTimeout(remove, TOAST_SECONDS * 1000);
    return {remove, problem: (problem) => { toast.classList.add("is-problem"); text(words, problem); }};
  }
}

export class Actions {
  constructor(model, onLogin) {
    this.model = model;
    this.mayChange = false;
    this.toasts = new Toasts($("toasts"));
    this.onLogin = onLogin;
    this.dialog = $("dialog");
    this.submit = null;
    $("dialog-cancel").addEventListener("click", () => this.dialog.close());
    $("dialog-form").addEventListener("submit", (event) => { event.preventDefault(); this.submit?.(); });
    $("reload").addEventListener("click", () => this.reload());
    $("purge").addEventListener("click", () => this.purge());
    $("login").addEventListener("click", () => this.login());
  }

  // Show the dialog. `confirm` is null where there is nothing to confirm; `run` may throw, and the dialog stays.
  ask({title, body, confirm, cancel = "Cancel", run}) {
    text($("dialog-title"), title);
    text($("dialog-problem"), "");
    $("dialog-body").replaceChildren(...body);
    const button = $("dialog-confirm");
    button.hidden = confirm === null;
    button.disabled = false;
    text(button, confirm ?? "");
    text($("dialog-cancel"), cancel);
    this.submit = confirm === null ? null : async () => {
      button.disabled = true;
      try {
        await run();
      } catch (error) {
        text($("dialog-problem"), error.message);
        button.disabled = false;
      }
    };
    if (!this.dialog.open) this.dialog.showModal();
  }

  // Ask for a confirmation, then make the change; `undo` is what a button offers afterwards.
  confirm({title, body, confirm, path, method, doing, undo}) {
    this.ask({title, body, confirm, run: async () => {
      const target = path();
      this.dialog.close();
      await this.change(target, method, doing, undo);
    }});
  }

  async change(path, method, doing, undo) {
    const toast = this.toasts.show(`${doing} …`, undo?.(null));
    try {
      const result = await request(path, {method});
      toast.remove();
      this.toasts.show(result.message ?? "Done.", undo?.(result));
    } catch (error) {
      toast.problem(error.message);
      if (error instanceof Unauthorized) this.login();
    }
  }

  instance(service, name) { return this.model.part("services")[service]?.instances?.[name]; }

  drainOrResume(service, name) {
    if (this.instance(service, name)?.state === "draining") this.resume(service, name); else this.drain(service, name);
  }

  drain(service, name) {
    const limit = el("input", {id: "dialog-limit", type: "number", min: "1", max: "3600", value: "30", required: true});
    const force = el("input", {id: "dialog-force", type: "checkbox"});
    const resume = () => this.change(
      `${instancePath(service, name)}?drain=false`, "PATCH", `Resuming ${name}`);
    this.confirm({
      title: `Drain ${name}?`, confirm: "Drain", method: "PATCH", doing: `Draining ${name}`,
      body: [
        el("p", {}, "It receives no new requests, and finishes those in flight. You can resume it."),
        el("p", {}, el("label", {for: "dialog-limit"}, "Seconds to wait for the requests in flight"), limit),
        el("p", {class: "check"}, force, el("label", {for: "dialog-force"}, "also if it is the last instance that is up")),
      ],
      path: () => `${instancePath(service, name)}?${query({
        drain: "true", limit: `${limit.value}s`, ...(force.checked ? {force: "true"} : {})})}`,
      undo: () => resume,
    });
  }

  resume(service, name) {
    this.confirm({
      title: `Resume ${name}?`, confirm: "Resume", method: "PATCH", doing: `Resuming ${name}`,
      body: [el("p", {}, "It receives requests again as soon as it is up.")],
      path: () => `${instancePath(service, name)}?drain=false`,
    });
  }

  scale(service, to) {
    const members = Object.keys(this.model.part("services")[service]?.instances ?? {}).length;
    const input = el("input", {id: "dialog-count", type: "number", min: "1", max: "1000", required: true,
      value: String(to ?? members)});
    const path = (number) => `/scale?${query({service, instances: number})}`;
    this.confirm({
      title: `Scale ${service}`, confirm: "Scale", method: "POST", doing: `Scaling ${service}`,
      body: [
        el("p", {}, `${service} has ${count(members)} instance${members === 1 ? "" : "s"}. `
          + "Instances that are removed finish their requests first. The file is not changed."),
        el("p", {}, el("label", {for: "dialog-count"}, "Instances"), input),
      ],
      path: () => path(input.value),
      undo: (result) => result?.before === undefined || result.before === result.instances ? undefined
        : () => this.change(path(result.before), "POST", `Scaling ${service} back to ${result.before}`),
    });
  }

  restart(service) {
    this.confirm({
      title: `Restart ${service}?`, confirm: "Restart", method: "POST", doing: `Restarting ${service}`,
      body: [el("p", {}, "The instances are replaced one at a time: no request is lost. This cannot be undone.")],
      path: () => `/restart?${query({service})}`,
    });
  }

  reload() {
    this.confirm({
      title: "Reload the configuration?", confirm: "Reload", method: "POST", doing: "Reloading",
      body: [el("p", {}, "The file is read again and applied. If it has errors, nothing changes. "
        + "This cannot be undone here: change the file back and reload.")],
      path: () => "/reload",
    });
  }

  purge() {
    const kind = el("select", {id: "dialog-kind"},
      el("option", {value: "path"}, "one path"), el("option", {value: "tag"}, "a tag"),
      el("option", {value: "all"}, "everything"));
    const value = el("input", {id: "dialog-value", type: "text", required: true, placeholder: "/user/42",
      autocomplete: "off", spellcheck: "false"});
    const row = el("p", {}, el("label", {for: "dialog-value"}, "Path or tag"), value);
    kind.addEventListener("change", () => {
      row.hidden = kind.value === "all";
      value.required = !row.hidden;
      value.placeholder = kind.value === "tag" ? "user:42" : "/user/42";
    });
    this.confirm({
      title: "Purge the cache?", confirm: "Purge", method: "POST", doing: "Purging",
      body: [
        el("p", {}, "Stored responses are evicted, and requested from the services again. This cannot be undone."),
        el("p", {}, el("label", {for: "dialog-kind"}, "What"), kind), row,
      ],
      path: () => `/cache/purge?${query(kind.value === "all" ? {all: "1"} : {[kind.value]: value.value})}`,
    });
  }

  login() {
    const token = el("input", {id: "dialog-token", type: "password", required: true, autocomplete: "off"});
    this.ask({
      title: "Sign in", confirm: "Sign in",
      body: [
        el("p", {}, "Changes, and reading from other machines, need the token of the admin port (admin.token)."),
        el("p", {}, el("label", {for: "dialog-token"}, "Token"), token),
      ],
      run: async () => {
        try {
          await request("/session", {
            method: "POST", body: JSON.stringify({token: token.value}), headers: {"Content-Type": "application/json"},
          });
        } catch (error) {
          throw error instanceof Unauthorized ? new Error("This is not the token.") : error;
        }
        this.dialog.close();
        this.onLogin();
      },
    });
  }

  showInstance(service, name) {
    const values = this.instance(service, name) ?? {};
    const shown = [
      ["service", service], ["state", values.state], ["problem", values.problem], ["address", values.address],
      ["pid", values.pid], ["restarts", values.restarts], ["weight", values.weight],
      ["requests", `${rate(values.requests ?? 0)}/s`], ["errors", `${rate(values.errors ?? 0)}/s`],
      ["in flight", count(values.in_flight ?? 0)], ["latency", duration(values.latency)],
      ["memory", values.memory === undefined ? undefined : bytes(values.memory)],
    ].filter(([, value]) => value !== undefined && value !== NONE);
    const isTarget = values.restarts === undefined, isDraining = values.state === "draining";
    this.ask({
      title: name, cancel: "Close",
      body: [el("dl", {class: "facts"}, ...shown.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, String(value))]))],
      confirm: this.mayChange && isTarget ? (isDraining ? "Resume" : "Drain") : null,
      run: () => this.drainOrResume(service, name),
    });
  }

  explain(method, url, host) { return request(`/explain?${query({method, url, host: host ?? ""})}`); }
}
