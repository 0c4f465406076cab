// The strip of past runs. One stop of the Tab key; arrow keys, Home and End move in it, Enter opens a run.

import { ask } from "./live.js";
import { VERDICTS, ago, clock, element, plural, sign, summed } from "./words.js";

const SHOWN = 60;
const ORIGINS = { start: "start", check: "check", pytest: "pytest", rerun: "re-run" };

// Events: "open" ({entry}), when somebody picks a run.
export class PastRuns extends EventTarget {
  runs = []; // newest first
  #section;
  #strip;
  #picked;
  #told = null; // the id of the run that the pointer or the focus is on
  #asked = 0; // how often the past was asked for
  #answered = 0; // and which of those answers is shown

  constructor(section) {
    super();
    this.#section = section;
    this.#strip = section.querySelector(".strip");
    this.#picked = section.querySelector(".picked");
    this.#strip.addEventListener("keydown", (event) => this.#move(event));
    for (const kind of ["pointerover", "focusin"]) this.#strip.addEventListener(kind, ({ target }) => this.#tell(target.closest("button")?.dataset.run));
    for (const kind of ["pointerleave", "focusout"]) this.#strip.addEventListener(kind, () => this.#tell(null));
  }

  // Ask the server for its past; what it cannot tell stays as it is.
  async refresh(address) {
    const number = (this.#asked += 1);
    const found = await ask(`diagnostics/history?limit=${SHOWN}&address=${encodeURIComponent(address)}`);
    if (number < this.#answered) return; // overtaken by the answer to a later question
    this.#answered = number;
    this.runs = found;
    this.#section.hidden = this.runs.length === 0;
  }

  find(runId) {
    return this.runs.find((run) => run.run_id === runId);
  }

  // Show the strip; `shown` is the run that the page shows.
  show(shown) {
    const strip = this.#strip;
    const had = document.activeElement?.closest(".strip") && document.activeElement.dataset.run;
    const atEnd = strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 4 || !strip.childElementCount;
    strip.replaceChildren(...this.runs.map((run) => this.#button(run, shown)).reverse());
    const buttons = [...strip.children];
    const stop = buttons.find((one) => one.dataset.run === (had || shown)) ?? buttons.at(-1);
    if (stop) stop.tabIndex = 0;
    if (had) stop?.focus();
    this.#tell(this.#told);
    if (atEnd) strip.scrollLeft = strip.scrollWidth;
  }

  #button(run, shown) {
    const verdict = VERDICTS[run.status];
    const button = element("button", { type: "button", tabIndex: -1, className: "past-run" }, sign(verdict.sign));
    button.dataset.run = run.run_id;
    button.dataset.state = run.status;
    button.classList.toggle("flipped", run.flips.length > 0);
    if (run.run_id === shown) button.setAttribute("aria-current", "true");
    button.setAttribute("aria-label", this.#describe(run));
    button.addEventListener("click", () => this.dispatchEvent(new CustomEvent("open", { detail: { entry: run } })));
    return button;
  }

  #describe(run) {
    const flips = run.flips.length ? `, ${plural(run.flips.length, "change")}: ${run.flips.slice(0, 3).map((flip) => flip.title).join(", ")}` : "";
    return `${VERDICTS[run.status].word}, ${clock(run.started_at)}, ${ORIGINS[run.origin]}: ${summed(run.summary) || "no checks"}${flips}`;
  }

  // Once a second: it is longer ago.
  tick() {
    this.#tell(this.#told);
  }

  // Say more of a run; without one, of the run that the page shows.
  #tell(runId) {
    this.#told = runId ?? null;
    const run = this.find(runId) ?? this.find(this.#strip.querySelector("[aria-current]")?.dataset.run);
    const away = run && ago((Date.now() - Date.parse(run.started_at)) / 1000);
    const text = run ? `${this.#describe(run)} (${away})` : "";
    if (this.#picked.textContent !== text) this.#picked.textContent = text;
  }

  #move(event) {
    const buttons = [...this.#strip.children];
    const here = buttons.indexOf(document.activeElement);
    const target = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (target === undefined || here < 0) return;
    event.preventDefault();
    const next = buttons[Math.min(Math.max(target, 0), buttons.length - 1)];
    buttons[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}
