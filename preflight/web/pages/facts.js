// What the server says of itself. /health is asked now and then, for it is made to be: connections change all the time.

import { ask } from "./live.js";
import { addressOf, clock, element, lasting } from "./words.js";

const LOOK = 10_000; // milliseconds between two looks at /health

// Events: "health" ({health}: what /health says, null where it does not answer).
export class Facts extends EventTarget {
  #list;
  #server = null;
  #notifications = null;
  #seen = 0;
  #health = null;
  #values = new Map();

  constructor(list) {
    super();
    this.#list = list;
    setInterval(() => document.hidden || this.look(), LOOK);
  }

  // Show what /diagnostics says of the server, and of the notifications that it sends.
  show({ server, notifications }) {
    this.#server = server;
    this.#notifications = notifications;
    this.#seen = performance.now();
    this.tick();
    this.look();
  }

  async look() {
    try {
      this.#health = await ask("health");
    } catch {
      this.#health = null; // the line to the server says that it is lost
    }
    this.tick();
    this.dispatchEvent(new CustomEvent("health", { detail: { health: this.#health } }));
  }

  // Once a second: it has been up for a while longer.
  tick() {
    const server = this.#server;
    if (!server) return;
    const { count, last_exit: last, last_exit_at: at } = server.restarts;
    this.#put("Health", this.#health?.status ?? "unknown");
    this.#put("Address", addressOf(server));
    this.#put("Version", server.version);
    this.#put("Up for", lasting(server.uptime_seconds + (performance.now() - this.#seen) / 1000));
    this.#put("Restarts", count ? `${count}, the last ${at ? clock(at) : "one"}: ${last || "reason unknown"}` : "none");
    if (document.querySelector(".panel")) this.#put("Chats", this.#health ? `${this.#health.active_connections} connected, ${this.#health.active_sessions} in use` : "unknown");
    this.#put("Process", `PID ${server.pid}`);
    const { problem, problem_at: since } = this.#notifications;
    if (problem) this.#put("Notifications", `not delivered${since ? `, ${clock(since)}` : ""}: ${problem}`);
    else this.#drop("Notifications");
  }

  #drop(name) {
    this.#values.get(name)?.parentElement.remove();
    this.#values.delete(name);
  }

  #put(name, text) {
    let value = this.#values.get(name);
    if (!value) {
      value = element("dd");
      this.#values.set(name, value);
      this.#list.append(element("div", {}, element("dt", { textContent: name }), value));
    }
    if (value.textContent !== text) value.textContent = text;
  }
}
