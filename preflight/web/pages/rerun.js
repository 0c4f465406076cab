// Running the checks again, and following a run that goes on.

import { Refused, ask } from "./live.js";
import { announce } from "./words.js";

const LOOK = 500; // milliseconds between looks at a run where there are no live updates

const at = (id) => document.getElementById(id);

export class Rerun {
  #live;
  #busy = false;
  #asked = null; // the id of the run that this person asked for last
  #wait = 0; // when the server takes the next one, on this page's own clock

  constructor(live) {
    this.#live = live;
    at("rerun").addEventListener("click", () => this.#start());
    live.addEventListener("run_started", ({ detail }) => this.#progress("", 0, detail.total));
    live.addEventListener("checking", ({ detail }) => this.#progress(detail.title, detail.done, detail.total));
    live.addEventListener("checked", ({ detail }) => this.#progress(detail.check.title, detail.done, detail.total));
    live.addEventListener("run_finished", ({ detail }) => this.#over(detail.again_in));
    live.addEventListener("snapshot", ({ detail: { run, again_in: again } }) => {
      if (run?.state === "running") this.#progress(run.checking, run.done, run.total);
      else this.#over(again);
    });
  }

  // aria-disabled and not disabled: a button that is disabled loses the focus, and with it the person's place.
  tick() {
    const seconds = Math.ceil((this.#wait - performance.now()) / 1000);
    const label = this.#busy ? "Checking…" : seconds > 0 ? `Again in ${seconds} s` : "Check again";
    const button = at("rerun");
    if (button.textContent !== label) button.textContent = label;
    if (this.#busy || seconds > 0) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
  }

  // Whether somebody at this page asked for the run, and waits for its end.
  asked(runId) {
    return runId === this.#asked;
  }

  async #start() {
    if (at("rerun").hasAttribute("aria-disabled")) return;
    this.#busy = true;
    this.tick();
    announce("Checking again.");
    try {
      const run = await ask("diagnostics/run", { method: "POST" });
      this.#asked = run.run_id;
      if (this.#live.state !== "live") await this.#follow(run.run_id);
    } catch (error) {
      this.#busy = false;
      if (error instanceof Refused && error.status === 429) {
        this.#wait = performance.now() + error.retryAfter * 1000;
        announce(`Not yet: try again in ${error.retryAfter} seconds.`);
      } else {
        this.say(`The checks were not started: ${error.message}`);
      }
      this.tick();
    }
  }

  async #follow(runId) {
    for (;;) {
      const run = await ask(`diagnostics/run/${runId}`);
      if (run.state !== "running") break;
      this.#progress(run.checking, run.done, run.total);
      await new Promise((resolve) => { setTimeout(resolve, LOOK); });
    }
    await this.#live.refresh();
  }

  #progress(title, done, total) {
    this.#busy = true;
    at("run").hidden = false;
    const track = at("progress");
    track.hidden = false;
    track.setAttribute("aria-valuenow", done);
    track.setAttribute("aria-valuemax", total ?? Math.max(done, 1));
    at("progress-bar").style.setProperty("--done", total ? done / total : 0);
    at("checking").textContent = `${total ? `${done} of ${total}` : "Collecting the checks"}${title ? `: ${title}` : ""}`;
    this.tick();
  }

  // `again` is in how many seconds the server takes the next one; undefined where it has not said.
  #over(again) {
    this.#busy = false;
    if (again !== undefined) this.#wait = performance.now() + again * 1000;
    at("run").hidden = true;
    this.tick();
  }

  say(text) {
    announce(text);
    at("checking").textContent = text;
    at("progress").hidden = true;
    at("run").hidden = false;
  }
}
