// The list of instances: conditions, pages, and what an instance says of itself once somebody opens its row. The
// conditions stand in the address, so that a page can be sent to somebody, and "back" leads back.

import { ask } from "./live.js";
import { OUTCOMES, ago, announce, clock, element, lasting, plural, sign, signOf } from "./words.js";

const SHOWN = 50; // rows of a page
const PAUSE = 300; // milliseconds after the last key until it is asked for
const STATES = {
  good: { word: "good", sign: "passed" },
  blocked: { word: "blocked", sign: "failed" },
  broken: { word: "its last run broke", sign: "failed" },
  silent: { word: "silent", sign: "unknown" },
  ended: { word: "ended", sign: "left-out" },
};
const NAMES = ["named", "state", "release", "check"];

export class Instances {
  #at;
  #list;
  #template = document.getElementById("instance");
  #rows = new Map(); // id -> row
  #offset = 0;
  #asked = 0;
  #conditions = {};

  constructor(section) {
    this.#at = (id) => section.querySelector(`#${id}`);
    this.#list = this.#at("instances-list");
    for (const [name, { word }] of Object.entries(STATES)) this.#at("state").append(element("option", { value: name, textContent: word }));
    let typing = 0;
    this.#at("named").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.only({ named: this.#at("named").value.trim() }, { quietly: true }), PAUSE);
    });
    for (const name of ["state", "release"]) this.#at(name).addEventListener("change", () => this.only({ [name]: this.#at(name).value }, { quietly: true }));
    this.#at("conditions").addEventListener("submit", (event) => event.preventDefault());
    this.#at("every").addEventListener("click", () => {
      location.hash = "";
      this.#at("named").focus();
    });
    this.#at("previous").addEventListener("click", () => this.#turn(-SHOWN));
    this.#at("next").addEventListener("click", () => this.#turn(SHOWN));
    addEventListener("hashchange", () => this.#read());
    this.#read();
  }

  // Add a condition; an empty text takes it away. `quietly`: whoever set it is still at it.
  only(conditions, { quietly = false } = {}) {
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of Object.entries(conditions)) {
      if (value) wanted.set(name, value);
      else wanted.delete(name);
    }
    location.hash = wanted.toString();
    if (!quietly) {
      const section = this.#list.closest("section");
      section.focus();
      section.scrollIntoView();
    }
  }

  // The versions that there are, to choose from.
  know(releases) {
    const select = this.#at("release");
    const known = new Set([...select.options].map((option) => option.value));
    for (const { release } of releases) if (!known.has(release)) select.append(element("option", { value: release, textContent: release || "unknown" }));
    select.value = this.#conditions.release ?? "";
  }

  #read() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    this.#conditions = Object.fromEntries(NAMES.map((name) => [name, wanted.get(name) ?? ""]).filter(([, value]) => value));
    this.#offset = 0;
    const { check = "", named = "", state = "", release = "" } = this.#conditions;
    if (document.activeElement !== this.#at("named")) this.#at("named").value = named;
    this.#at("state").value = state in STATES ? state : "";
    if (release && ![...this.#at("release").options].some((option) => option.value === release)) {
      this.#at("release").append(element("option", { value: release, textContent: release }));
    }
    this.#at("release").value = release;
    this.#at("only").textContent = check ? `Only instances where this does not hold: ${check}` : "";
    this.#at("only").hidden = !check;
    this.#at("every").hidden = !Object.keys(this.#conditions).length;
    this.refresh().then(() => announce(this.#at("counted").textContent));
  }

  async #turn(by) {
    this.#offset = Math.max(0, this.#offset + by);
    await this.refresh();
    announce(this.#at("counted").textContent);
    this.#list.closest("section").scrollIntoView();
  }

  async refresh() {
    const number = (this.#asked += 1);
    const query = new URLSearchParams({ ...this.#conditions, limit: SHOWN, offset: this.#offset });
    let page;
    try {
      page = await ask(`fleet/instances?${query}`);
    } catch (error) {
      if (number === this.#asked) this.#say(`The instances could not be loaded: ${error.message}`);
      return;
    }
    if (number !== this.#asked) return; // overtaken by a later question
    if (!page.instances.length && this.#offset) {
      this.#offset = 0; // there are fewer than there were
      await this.refresh();
      return;
    }
    this.#show(page);
  }

  #say(text) {
    this.#at("nothing").textContent = text;
    this.#at("nothing").hidden = !text;
  }

  #show({ total, instances }) {
    const first = this.#offset + 1, last = this.#offset + instances.length;
    this.#at("counted").textContent = !total ? "none" : last - first + 1 === total ? plural(total, "instance") : `${first.toLocaleString()} to ${last.toLocaleString()} of ${total.toLocaleString()}`;
    this.#say(total ? "" : Object.keys(this.#conditions).length ? "No instance matches." : "No instance has written to the database yet.");
    this.#at("pager").hidden = total <= SHOWN;
    for (const [id, off] of [["previous", this.#offset === 0], ["next", last >= total]]) this.#at(id).disabled = off;
    const kept = new Map(instances.map((one) => [one.id, this.#rows.get(one.id) ?? this.#make(one.id)]));
    for (const [id, row] of this.#rows) if (!kept.has(id)) row.item.remove();
    this.#rows = kept;
    let next = this.#list.firstElementChild;
    for (const one of instances) {
      const row = kept.get(one.id);
      this.#fill(row, one);
      // Only what stands elsewhere is moved: moving costs a row its focus.
      if (row.item === next) next = next.nextElementSibling;
      else this.#list.insertBefore(row.item, next);
    }
  }

  #make(id) {
    const item = this.#template.content.firstElementChild.cloneNode(true);
    const parts = Object.fromEntries([...item.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
    const row = { id, item, parts, details: item.firstElementChild, use: item.querySelector("use"), more: item.querySelector(".more"), run: null };
    row.details.addEventListener("toggle", () => row.details.open && this.#open(row));
    return row;
  }

  #fill(row, one) {
    const state = STATES[one.state];
    row.details.dataset.sign = state.sign;
    row.use.setAttribute("href", `#sign-${state.sign}`);
    row.parts.state.textContent = `${state.word}: `;
    row.parts.host.textContent = one.host || one.id;
    row.parts.address.textContent = one.address;
    const bad = [one.blocking && `${plural(one.blocking, "check")} ${one.blocking === 1 ? "blocks" : "block"}`, one.warning && `${plural(one.warning, "warning")}`].filter(Boolean);
    const lasts = one.verdict_seconds === null || one.state === "ended" ? "" : ` for ${lasting(one.verdict_seconds)}`;
    const heard = one.state === "silent" ? `silent; the last verdict was ${one.verdict}` : one.state === "ended" ? `ended${one.ending ? `: ${one.ending}` : ""}` : `${state.word}${lasts}`;
    row.parts.message.textContent = [heard, ...(one.state === "ended" ? [] : bad)].join(", ");
    row.parts.release.textContent = one.release;
    const ended = one.state === "ended" ? one.ended_seconds_ago : one.seen_seconds_ago;
    row.parts.seen.textContent = ended === null ? "at an unknown time" : `${one.state === "ended" ? "ended" : "heard from"} ${ago(ended)}`;
    const known = `${one.run_id} ${one.state}`;
    if (row.run !== known && row.details.open) this.#open(row);
    row.run = known;
  }

  // What only an open row shows: asked for when somebody wants to know.
  async #open(row) {
    try {
      const one = await ask(`fleet/instances/${encodeURIComponent(row.id)}`);
      row.more.replaceChildren(...this.#told(one));
    } catch (error) {
      row.more.replaceChildren(element("p", { className: "nothing", textContent: `The instance could not be loaded: ${error.message}` }));
    }
  }

  #told(one) {
    const facts = element("dl", { className: "facts" });
    const { report } = one;
    const entries = {
      id: one.id, project: one.project, application: one.application, version: one.release, address: one.address,
      "known for": one.known_seconds === null ? "" : lasting(one.known_seconds),
      "last run": report ? `${clock(report.generated_at)}, ${report.origin}` : one.problem,
    };
    for (const [name, value] of Object.entries(entries)) {
      if (value) facts.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
    }
    const checks = report ? Object.entries(report.checks).map(([title, check]) => ({ title, ...check }))
      : one.failing.map((check) => ({ ...check, severity: check.standing === "blocks" ? "critical" : "warning" }));
    const signed = checks.map((check) => ({ ...check, sign: signOf(check) }));
    const bad = signed.filter((check) => check.sign !== "passed" && check.sign !== "left-out");
    const rest = signed.filter((check) => check.sign === "passed" || check.sign === "left-out");
    const parts = [facts];
    if (bad.length) parts.push(this.#checks("What does not hold", bad));
    if (rest.length) parts.push(this.#checks("What holds, or was left out", rest));
    if (one.changes.length) {
      const list = element("ul", { className: "plain" });
      for (const change of one.changes) {
        list.append(element("li", { textContent: `${change.title || "Verdict"}: ${change.before || "new"} → ${change.after || "gone"}, ${change.seconds_ago === null ? "at an unknown time" : ago(change.seconds_ago)}` }));
      }
      parts.push(element("div", {}, element("h3", { textContent: "Changes of the last day" }), list));
    }
    return parts;
  }

  #checks(title, checks) {
    const list = element("ul", { className: "plain" });
    for (const check of checks) {
      const item = element("li", { className: "past-outcome" }, sign(check.sign), element("span", { className: "title", textContent: check.title }), `${OUTCOMES[check.outcome] ?? check.outcome}${check.scope === "fleet" ? ", shared by the fleet" : ""}`);
      item.dataset.sign = check.sign;
      if (check.message) item.append(element("span", { className: "message", textContent: check.message }));
      if (check.fix) item.append(element("span", { className: "message" }, "Fix: ", element("code", { textContent: check.fix })));
      list.append(item);
    }
    return element("div", {}, element("h3", { textContent: title }), list);
  }
}
