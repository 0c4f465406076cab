// The checks of one report: grouped by severity, those that need somebody first. Rows stay where they are when only
// their content changes, so that nobody loses their place.

import { OUTCOMES, addressOf, announce, brief, clock, element, sign, signOf } from "./words.js";
import { ask } from "./live.js";

const ORDER = ["failed", "warnings", "unknown", "passed", "left-out"];
const COMMENT = "  # "; // behind a command: what is to be said about it
const PAST = 30; // runs of one check that are shown
const MANY = 200; // checks from which on only those that are seen are laid out

export class Checks {
  #rows = new Map(); // title -> row
  #template = document.getElementById("check");
  #slowest = 1; // milliseconds
  #flips = new Map();
  #groups = new Map();
  #address = ""; // of the server whose checks these are

  constructor(section) {
    this.section = section;
    for (const group of section.querySelectorAll(".group")) {
      this.#groups.set(group.dataset.severity, { group, list: group.querySelector("ul"), title: group.querySelector("h3 span") });
    }
  }

  // Show the checks of a report; `flips` is what changed in it ({title, from, to}).
  show(diagnostics, flips = []) {
    this.#address = addressOf(diagnostics.server);
    const entries = Object.entries(diagnostics.checks);
    this.#slowest = Math.max(1, ...entries.map(([, check]) => check.duration_ms));
    this.#flips = new Map(flips.map((flip) => [flip.title, flip]));
    const focused = document.activeElement;
    const sorted = new Map([...this.#groups.keys()].map((severity) => [severity, []]));
    const kept = new Map();
    for (const [title, check] of entries) {
      const row = this.#rows.get(title) ?? this.#make(title);
      this.#fill(row, check);
      kept.set(title, row);
      sorted.get(check.severity).push(row);
    }
    for (const [title, row] of this.#rows) if (!kept.has(title)) row.item.remove();
    this.#rows = kept;
    for (const [severity, rows] of sorted) this.#arrange(severity, rows);
    this.section.classList.toggle("many", entries.length > MANY);
    this.section.querySelector("#nothing").hidden = entries.length > 0;
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  }

  // One check of a run that goes on.
  update({ title, ...check }) {
    const row = this.#rows.get(title);
    if (!row) return;
    this.#flips.delete(title);
    this.#fill(row, { details: row.check.details, scope: row.check.scope, ...check, duration_ms: check.duration_ms ?? row.check.duration_ms });
    row.item.classList.remove("fresh");
    void row.item.offsetWidth; // the animation begins anew
    row.item.classList.add("fresh");
    this.#count(row.check.severity);
  }

  #arrange(severity, rows) {
    const { group, list } = this.#groups.get(severity);
    group.hidden = rows.length === 0;
    rows.sort((one, other) => ORDER.indexOf(one.sign) - ORDER.indexOf(other.sign));
    // Only what stands elsewhere is moved: moving costs a row its focus, and a reader their place.
    let next = list.firstElementChild;
    for (const { item } of rows) {
      if (item === next) next = next.nextElementSibling;
      else list.insertBefore(item, next);
    }
    this.#count(severity);
  }

  // The heading of a group says how its rows are now.
  #count(severity) {
    const { title } = this.#groups.get(severity);
    const rows = [...this.#rows.values()].filter((row) => row.check.severity === severity);
    const bad = rows.filter((row) => row.sign !== "passed" && row.sign !== "left-out").length;
    const text = `${severity === "critical" ? "Critical" : "Warnings"}: ${bad ? `${bad} of ${rows.length} ${bad === 1 ? "needs" : "need"} attention` : "all good"}`;
    if (title.textContent !== text) title.textContent = text;
  }

  #make(title) {
    const item = this.#template.content.firstElementChild.cloneNode(true);
    const part = (name) => item.querySelector(`[data-part=${name}]`);
    const row = {
      item, title, sign: "", check: null, filled: false, // whether `more` holds what belongs to `check`
      details: item.firstElementChild, use: item.querySelector("use"), bar: item.querySelector(".bar span"),
      more: item.querySelector(".more"), outcome: part("outcome"), flip: part("flip"), message: part("message"), duration: part("duration"),
    };
    part("title").textContent = title;
    row.details.addEventListener("toggle", () => row.details.open && !row.filled && this.#open(row));
    return row;
  }

  #fill(row, check) {
    const before = row.sign;
    const flip = this.#flips.get(row.title);
    row.flip.hidden = !flip;
    row.flip.textContent = flip ? `was ${OUTCOMES[flip.from] ?? flip.from}` : "";
    row.filled &&= JSON.stringify(check) === JSON.stringify(row.check);
    row.check = check;
    row.sign = signOf(check);
    row.details.dataset.sign = row.sign;
    row.use.setAttribute("href", `#sign-${row.sign}`);
    row.outcome.textContent = `${OUTCOMES[check.outcome] ?? check.outcome}: `;
    row.message.textContent = check.message;
    row.duration.textContent = brief(check.duration_ms);
    row.bar.style.setProperty("--share", check.duration_ms / this.#slowest);
    // What needs somebody is open; what was opened by hand stays so.
    if (before !== row.sign) {
      const open = row.sign === "failed" || row.sign === "warnings";
      if (!open && row.more.contains(document.activeElement)) row.details.firstElementChild.focus();
      row.details.open = open;
    }
    if (row.details.open && !row.filled) this.#open(row);
  }

  // Fill what only an open row shows.
  #open(row) {
    const { check, more } = row;
    row.filled = true;
    more.replaceChildren();
    if (check.fix && row.sign !== "passed" && row.sign !== "left-out") more.append(this.#fix(row.title, check.fix));
    const facts = element("dl", { className: "facts" });
    const entries = Object.entries({ severity: check.severity, ...(check.scope === "fleet" && { scope: "shared by the fleet" }), outcome: OUTCOMES[check.outcome] ?? check.outcome, ...check.details });
    for (const [name, value] of entries) {
      const shown = value !== null && typeof value === "object" ? JSON.stringify(value) : String(value ?? "–");
      facts.append(element("div", {}, element("dt", { textContent: name.replaceAll("_", " ") }), element("dd", { textContent: shown })));
    }
    more.append(facts);
    const past = element("div", { className: "check-past" });
    more.append(past);
    this.#recall(row, past);
  }

  // How this check fared before: asked for when somebody wants to know.
  #recall(row, place) {
    const button = element("button", { type: "button", className: "quiet", textContent: "Earlier results" });
    button.append(element("span", { className: "unseen", textContent: ` of ${row.title}` }));
    button.addEventListener("click", async () => {
      button.setAttribute("aria-disabled", "true");
      try {
        const past = await ask(`diagnostics/checks/${encodeURIComponent(row.title)}?limit=${PAST}&address=${encodeURIComponent(this.#address)}`);
        const list = element("ol", { className: "outcomes", tabIndex: -1 });
        list.setAttribute("aria-label", `Earlier results of ${row.title}, newest first`);
        for (const run of past.runs) {
          const signed = signOf({ severity: past.severity, outcome: run.outcome });
          const item = element("li", { className: "past-outcome" }, sign(signed), `${OUTCOMES[run.outcome] ?? run.outcome}, ${clock(run.started_at)}, ${brief(run.duration_ms)}`);
          item.dataset.sign = signed;
          if (run.message) item.append(element("span", { className: "message", textContent: run.message }));
          list.append(item);
        }
        place.replaceChildren(list);
        list.focus();
      } catch (error) {
        button.removeAttribute("aria-disabled");
        announce(`Earlier results could not be loaded: ${error.message}`);
        place.replaceChildren(button, element("p", { className: "hint", textContent: `The earlier results could not be loaded: ${error.message}` }));
      }
    });
    place.append(button);
  }

  #fix(title, fix) {
    // What stands behind a command is for people: not every shell takes comments where it is pasted.
    const [command, ...said] = fix.split(COMMENT);
    const text = element("p", {}, element("code", { textContent: command }));
    if (said.length) text.append(element("span", { className: "said", textContent: COMMENT + said.join(COMMENT) }));
    const button = element("button", { type: "button", className: "copy", textContent: "Copy" });
    button.append(element("span", { className: "unseen", textContent: ` the fix of ${title}` }));
    button.addEventListener("click", async () => {
      const copied = await copy(command);
      button.firstChild.data = copied ? "Copied" : "Not copied";
      announce(copied ? `Copied: ${command}` : "The command could not be copied; select it and copy it yourself.");
      setTimeout(() => { button.firstChild.data = "Copy"; }, 2000);
    });
    return element("div", { className: "fix" }, element("p", { className: "label", textContent: "Fix" }), text, button);
  }
}

// navigator.clipboard is there over HTTPS and on localhost only.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement;
    const area = element("textarea", { value: text, className: "unseen" });
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return copied;
  }
}
