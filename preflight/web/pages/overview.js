// The state at a glance: word, sign and colour, how long ago, and the same in the title and the icon of the tab.

import { PROOF } from "./live.js";
import { VERDICTS, ago, brief, clock, element, plural, signOf, summed } from "./words.js";

const ORIGINS = { start: "the start", check: "a check beside the server", pytest: "pytest", rerun: "a re-run" };
const ICONS = { passed: "passed", warnings: "warnings", failed: "failed", broken: "failed", "not run": "waiting" };

// As data: an icon that has to be asked for cannot say that there is nobody to ask.
const icons = new Map();

// What blocks is shared by the whole fleet.
const SHARED = { word: "Starts are blocked", sign: "failed" };

const at = (id) => document.getElementById(id);

export class Overview {
  #shown = null;
  #since = 0; // when the shown report's run ended, on this page's own clock
  #past = false;
  #health = null;
  #shared = false; // whether all that blocks is shared by the fleet: it takes no server out of service
  #took = null; // milliseconds of all its checks; null where it has none of its own

  // Show a report; `past` is true for one that is not the latest.
  show(diagnostics, past) {
    this.#shown = diagnostics;
    this.#past = past;
    this.#since = diagnostics.age_seconds === null ? 0 : performance.now() - diagnostics.age_seconds * 1000;
    const ran = diagnostics.status === "broken" ? [] : Object.values(diagnostics.checks);
    this.#took = ran.length ? ran.reduce((sum, check) => sum + check.duration_ms, 0) : null;
    const blocking = Object.values(diagnostics.checks).filter((check) => signOf(check) === "failed");
    this.#shared = diagnostics.status === "failed" && blocking.every((check) => check.scope === "fleet");
    const verdict = this.#shared ? SHARED : VERDICTS[diagnostics.status];
    at("overview").dataset.state = diagnostics.status;
    at("overview").classList.toggle("is-past", past);
    at("seal").setAttribute("href", `#sign-${verdict.sign}`);
    at("verdict").textContent = past ? `${verdict.word}, back then` : verdict.word;
    at("summary").textContent = this.#summary(diagnostics);
    const { reason, problem = "" } = diagnostics;
    at("reason").textContent = [problem.includes(reason) ? "" : reason, problem].filter(Boolean).join("; ");
    at("reason").hidden = !at("reason").textContent;
    at("now").hidden = !past;
    this.itself(this.#health);
    this.tick();
  }

  #summary({ status, summary, checks, critical_errors: errors, warnings }) {
    const named = (checks) => checks.slice(0, 3).map((check) => check.title).join(", ") + (checks.length > 3 ? ", …" : "");
    const parts = [];
    const [first] = Object.values(checks);
    if (status === "broken" && first) parts.push(`The checks below are those of the last complete run, of ${clock(first.timestamp)}.`);
    if (errors.length) parts.push(`${plural(errors.length, "critical check")} failed: ${named(errors)}.`);
    if (warnings.length) parts.push(`${plural(warnings.length, "warning")}: ${named(warnings)}.`);
    if (status === "passed") parts.push("Every requirement that was checked holds.");
    if (summary.total) parts.push(`${summary.total} checks: ${summed(summary)}.`);
    return parts.join(" ");
  }

  // What /health says, null if nothing: it goes by this server's own runs, and the report may be somebody else's.
  itself(health) {
    this.#health = health;
    const shown = this.#shown;
    const now = shown && health && !this.#past;
    const status = health?.status;
    const differs = now && (status === "healthy") !== (shown.status !== "failed");
    const text = status === "draining" ? "The server takes no new work: it is stopping, or being replaced."
      : now && shown.status === "broken" ? `The server uses its last complete run, and reports: ${status}.`
      : differs && status === "healthy" && this.#shared && health.critical_errors.length ? "The server keeps serving: what fails is shared by the whole fleet."
      : differs && status === "healthy" && health.critical_errors.length ? "The server keeps serving, because rerun_gates is off."
      : differs ? `The server itself still uses its own last run, and reports: ${status}. Check again to give it a new one.` : "";
    at("itself").textContent = text;
    at("itself").hidden = !text;
  }

  // Once a second: how long ago it was.
  tick() {
    const shown = this.#shown;
    if (!shown) return;
    if (!shown.generated_at) {
      at("when").textContent = "";
      return;
    }
    const time = element("time", { dateTime: shown.generated_at, title: clock(shown.generated_at) });
    time.textContent = ago((performance.now() - this.#since) / 1000);
    const took = this.#took === null ? "" : `; the checks took ${brief(this.#took)}`;
    at("when").replaceChildren(shown.status === "broken" ? "Tried " : "Checked ", time, ` by ${ORIGINS[shown.origin]}${took}.`);
  }

  // Fetch the tab's icons while there is a server.
  static async prepare() {
    await Promise.all([...new Set(Object.values(ICONS)), "lost"].map(async (name) => {
      const answer = await fetch(`static/${name}.svg`, { headers: PROOF });
      if (answer.ok) icons.set(name, `data:image/svg+xml,${encodeURIComponent(await answer.text())}`);
    }));
  }

  // The tab says how it is now, whatever the page shows; null: nobody knows.
  static tab(diagnostics) {
    const word = diagnostics ? VERDICTS[diagnostics.status].word : "No connection";
    document.title = `${word} – Preflight`;
    const icon = diagnostics ? ICONS[diagnostics.status] : "lost";
    if (at("favicon").dataset.icon === icon) return;
    at("favicon").dataset.icon = icon;
    at("favicon").setAttribute("href", icons.get(icon) ?? `static/${icon}.svg`);
  }
}
