// The page: what was heard from the server goes to the parts that show it.

import { Checks } from "./checks.js";
import { Facts } from "./facts.js";
import { Live, ask } from "./live.js";
import { Overview } from "./overview.js";
import { PastRuns } from "./pastruns.js";
import { Rerun } from "./rerun.js";
import { OUTCOMES, VERDICTS, addressOf, announce, clock } from "./words.js";

const at = (id) => document.getElementById(id);

const live = new Live();
const checks = new Checks(at("checks"));
const facts = new Facts(at("facts"));
const pastRuns = new PastRuns(at("past"));
const overview = new Overview();
const rerun = new Rerun(live);

let latest = null; // what /diagnostics said last
let running = []; // the checks that the run that goes on is through with
let shown = null; // the id of the past run that the page shows, null for now
let lostAt = 0;
let retryAt = 0;

// The run that the page shows stands in the address, so that Back leads back to now.
function wanted() {
  if (!location.hash.startsWith("#run=")) return null;
  const runId = location.hash.slice(5);
  try {
    return decodeURIComponent(runId);
  } catch {
    return runId; // an address that somebody has cut: no run goes by that name, and the server says so
  }
}

function show(diagnostics) {
  const past = shown !== null;
  overview.show(diagnostics, past);
  checks.show(diagnostics, pastRuns.find(diagnostics.run_id)?.flips);
  pastRuns.show(diagnostics.run_id);
  if (!past) running.forEach((check) => checks.update(check));
}

async function open() {
  const runId = wanted();
  if (runId === null || runId === latest?.run_id) {
    if (shown !== null) announce("Back to now.");
    shown = null;
    if (latest) show(latest);
    return;
  }
  try {
    const diagnostics = await ask(`diagnostics/history/${encodeURIComponent(runId)}`);
    if (wanted() !== runId) return;
    shown = runId;
    show(diagnostics);
    announce(`This is the run of ${clock(diagnostics.generated_at)}: ${VERDICTS[diagnostics.status].word}. The button Back to now leads back.`);
  } catch (error) {
    rerun.say(`The run cannot be shown: ${error.message}`);
    back();
  }
}

function back() {
  location.hash = "";
  at("rerun").focus();
}

pastRuns.addEventListener("open", ({ detail: { entry } }) => {
  if (entry.run_id === latest?.run_id) back();
  else location.hash = `run=${encodeURIComponent(entry.run_id)}`;
});
facts.addEventListener("health", ({ detail: { health } }) => overview.itself(health));
// The application's panel says that its counts have changed.
addEventListener("preflight:counts", () => facts.look());
addEventListener("hashchange", open);
// Without the address, where the run that is shown stands.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  at("checks").focus();
  at("checks").scrollIntoView();
});
at("now").addEventListener("click", back);

live.addEventListener("snapshot", async ({ detail: { diagnostics, run } }) => {
  const before = latest;
  latest = diagnostics;
  running = run?.state === "running" ? run.checks : [];
  Overview.tab(diagnostics);
  facts.show(diagnostics);
  at("address").textContent = addressOf(diagnostics.server);
  at("fleet").hidden = !diagnostics.server.fleet;
  // The login's own cookie is nothing for scripts; this one beside it says that there is a login to end.
  const login = new RegExp(`(^|; )preflight_${diagnostics.server.port}(_beside)?_login=1(;|$)`);
  at("logout").hidden = !login.test(document.cookie);
  const isNew = before?.run_id !== diagnostics.run_id;
  if (shown === null) show(diagnostics);
  if (isNew) {
    await pastRuns.refresh(at("address").textContent).catch(() => {}); // the report itself is shown without its past
    pastRuns.show(shown ?? latest.run_id);
    if (latest.run_id !== diagnostics.run_id) return; // the newer one says what is new
    if (shown === null) show(latest);
    if (before) tell(before, diagnostics);
    else if (wanted() !== null) open();
  }
});

live.addEventListener("run_started", () => { running = []; });
live.addEventListener("checked", ({ detail: { check } }) => {
  running.push(check);
  if (shown === null) checks.update(check);
});

// What is new in the newest report, in words. A run in the background that found everything as it was is no news.
function tell(before, after) {
  const flips = Object.entries(after.checks)
    .filter(([title, check]) => before.checks[title] && before.checks[title].outcome !== check.outcome)
    .map(([title, check]) => `${title}: was ${OUTCOMES[before.checks[title].outcome]}, now ${OUTCOMES[check.outcome]}`);
  if (!flips.length && before.status === after.status && !rerun.asked(after.run_id)) return;
  announce([`Checked: ${VERDICTS[after.status].word}.`, ...flips].join(" "));
}

live.addEventListener("link", ({ detail }) => {
  const { state, refused } = detail;
  retryAt = detail.retryAt ?? 0;
  const lost = state === "lost" || state === "refused";
  if (at("link").dataset.link === state && state !== "refused") return;
  at("link").dataset.link = state;
  at("link-text").textContent = { live: "Live", polling: "Refreshed every 5 s", lost: "No connection", refused: "Not allowed" }[state];
  at("lost").hidden = !lost;
  document.body.classList.toggle("is-lost", lost);
  if (lost) {
    const title = state === "lost" ? "The server does not answer." : "The server does not let this page see its state.";
    if (!lostAt) announce(title);
    lostAt ||= Date.now();
    at("lost-title").textContent = title;
    at("lost-text").textContent = state === "lost" ? "This page shows the last known state." : refused.message;
    at("login").hidden = refused?.status !== 401;
    at("login").href = `login?next=${encodeURIComponent(location.pathname)}`;
    if (state === "refused") at("logout").hidden = true;
    Overview.tab(null);
    overview.itself(null);
  } else if (lostAt) {
    lostAt = 0;
    announce("The server answers again.");
    dispatchEvent(new Event("preflight:back")); // for the application's panel
    if (latest) Overview.tab(latest);
  }
});

setInterval(() => {
  overview.tick();
  facts.tick();
  pastRuns.tick();
  rerun.tick();
  if (lostAt) {
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    at("lost-retry").textContent = `${seconds ? `Trying again in ${seconds} s.` : "Trying again…"}`;
  }
}, 1000);

live.start();
Overview.prepare().catch(() => {}); // the tab's title says the same
