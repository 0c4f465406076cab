// The fleet's page: counts at a glance, what does not hold and where, the instances, and what has changed in a day.

import { Instances } from "./fleetinstances.js";
import { Refused, ask } from "./live.js";
import { ago, announce, element, lasting, plural, sign } from "./words.js";

const LOOK = 10_000; // milliseconds between two looks
const FEW = 8; // rows of a list that are shown before somebody wants to see all
const WORDS = { good: "good", blocked: "blocked", broken: "without a trustworthy run", silent: "silent", ended: "ended" };
const STANDINGS = { blocks: "blocks", warns: "warns", ok: "holds", good: "good", blocked: "blocked", broken: "the suite broke", "": "is gone" };

const at = (id) => document.getElementById(id);
const instances = new Instances(at("instances"));
let shown = null; // the last answer that had a fleet in it
let since = 0; // when what it shows was so, on this page's own clock
let lost = false;

async function look() {
  let answer;
  try {
    answer = await ask("fleet?format=json");
  } catch (error) {
    gone(error instanceof Refused ? "The server does not show the fleet." : "The server does not answer.", error.message, error.status === 401);
    at("link").dataset.link = error instanceof Refused ? "refused" : "lost";
    at("link-text").textContent = error instanceof Refused ? "Not allowed" : "No connection";
    return;
  }
  const away = answer.status === "away";
  at("link").dataset.link = away ? "lost" : "live";
  at("link-text").textContent = away ? "Database unavailable" : "Refreshed every 10 s";
  if (answer.fleet) show(answer);
  if (away) gone(`${answer.problem[0].toUpperCase()}${answer.problem.slice(1)}.`, "", false);
  else {
    if (lost) announce("The database answers again.");
    lost = false;
    at("lost").hidden = true;
    document.body.classList.remove("is-lost");
    await instances.refresh();
  }
}

function gone(title, why, login) {
  if (!lost) announce(title);
  lost = true;
  at("lost").hidden = false;
  document.body.classList.add("is-lost");
  at("lost-title").textContent = title;
  at("lost-text").textContent = [why && `${why}${/[.!?]$/.test(why) ? "" : "."}`, shown ? "This page shows the last known state." : ""].filter(Boolean).join(" ");
  at("login").hidden = !login;
  at("login").href = `login?next=${encodeURIComponent(location.pathname)}`;
  if (!shown) {
    at("verdict").textContent = "Nothing is known";
    at("summary").textContent = "";
    at("seal").setAttribute("href", "#sign-unknown");
  }
}

function show(answer) {
  const { fleet } = answer;
  shown = fleet;
  since = performance.now() - answer.age_seconds * 1000;
  const { live, ended, ...counts } = fleet.instances;
  const bad = counts.blocked + counts.broken;
  const state = !live ? "waiting" : bad ? "failed" : counts.silent ? "warnings" : "passed";
  at("overview").dataset.state = state;
  at("seal").setAttribute("href", `#sign-${{ waiting: "unknown" }[state] ?? state}`);
  at("favicon").href = `static/${state}.svg`;
  at("verdict").textContent = !live ? "There are no instances"
    : counts.good === live ? (live === 1 ? "The instance is good" : `All ${live.toLocaleString()} instances are good`)
    : `${counts.good.toLocaleString()} of ${plural(live, "instance")} ${counts.good === 1 ? "is" : "are"} good`;
  document.title = `${at("verdict").textContent} · Preflight: the fleet`;
  const parts = ["blocked", "broken", "silent"].filter((name) => counts[name]).map((name) => `${counts[name].toLocaleString()} ${WORDS[name]}`);
  const versions = fleet.releases.map(({ release, count }) => `${release} on ${count.toLocaleString()}`);
  at("summary").textContent = [
    parts.length ? `${parts.join(", ")}.` : "",
    versions.length ? `${versions.length === 1 ? "Version" : "Versions"}: ${versions.join(", ")}.` : "",
    ended ? `${plural(ended, "instance")} ended.` : "",
  ].filter(Boolean).join(" ");
  at("fails").hidden = !fleet.checks.length;
  list("fails", fleet.checks.map(failing));
  at("changed").hidden = !fleet.changes.length;
  list("changed", fleet.changes.map(changed));
  instances.know(fleet.releases);
  tick();
}

// Put the rows there; the first few of many, until somebody asks for the others.
function list(name, rows) {
  const all = at(`${name}-all`);
  all.hidden = rows.length <= FEW || all.dataset.open === "yes";
  all.textContent = `Show all ${rows.length}`;
  all.onclick = () => {
    all.dataset.open = "yes";
    list(name, rows);
    (rows[FEW].querySelector("button") ?? at(`${name}-title`)).focus();
  };
  const shownRows = all.hidden ? rows : rows.slice(0, FEW);
  at(`${name}-list`).replaceChildren(...shownRows);
}

// One check that does not hold somewhere.
function failing(check) {
  const name = check.standing === "blocks" ? "failed" : "warnings";
  const row = element("li", {}, element("div", { className: "row" }));
  const inner = row.firstElementChild;
  inner.dataset.sign = name;
  const mark = element("span", { className: "sign" }, sign(name), element("span", { className: "unseen", textContent: `${check.standing}: ` }));
  const what = element("span", { className: "what" }, element("span", { className: "title", textContent: check.title }));
  if (check.message) what.append(element("span", { className: "message", textContent: check.message }));
  const more = check.count - check.places.length;
  const places = `${check.places.join(", ")}${more > 0 ? ` and ${more.toLocaleString()} more` : ""}`;
  const lasts = check.seconds === null ? "" : `, for ${lasting(check.seconds)}`;
  what.append(element("span", { className: "places", textContent: `${places}${lasts}` }));
  const button = element("button", { type: "button", className: "quiet", textContent: "Show these" });
  button.append(element("span", { className: "unseen", textContent: ` instances: ${check.title}` }));
  button.addEventListener("click", () => instances.only({ check: check.title }));
  const count = element("span", { className: "count" }, element("strong", { textContent: check.count.toLocaleString() }), ` of ${check.of.toLocaleString()}`);
  const share = element("span", { className: "share" }, element("span"));
  share.setAttribute("aria-hidden", "true");
  share.firstElementChild.style.setProperty("--share", Math.min(1, check.count / Math.max(1, check.of)));
  inner.append(mark, what, element("span", { className: "asides" }, count, " ", button), share);
  return row;
}

function changed(change) {
  const title = change.title || "Verdict";
  const name = { blocks: "failed", blocked: "failed", broken: "failed", warns: "warnings", ok: "passed", good: "passed" }[change.after] ?? "left-out";
  const row = element("li", {}, element("div", { className: "row" }));
  const inner = row.firstElementChild;
  inner.dataset.sign = name;
  const words = `${STANDINGS[change.before] && change.before ? `${STANDINGS[change.before]} → ` : ""}${STANDINGS[change.after] ?? change.after}`;
  const what = element("span", { className: "what" }, element("span", { className: "title", textContent: title }), " ", element("span", { className: "flip", textContent: words }));
  const { first_seconds_ago: first, last_seconds_ago: last } = change;
  const when = first === null ? "" : first - last < 2 ? `, ${ago(last)}` : `, from ${ago(first)} to ${ago(last)}`;
  what.append(element("span", { className: "places", textContent: `on ${plural(change.count, "instance")}${when}` }));
  if (change.message && name !== "passed") what.append(element("span", { className: "message", textContent: change.message }));
  inner.append(element("span", { className: "sign" }, sign(name)), what);
  return row;
}

// Once a second: what is shown is a little older.
function tick() {
  if (shown) at("when").textContent = `As of ${ago((performance.now() - since) / 1000)}.`;
}

// Without the address, where the conditions stand.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  at("instances").focus();
  at("instances").scrollIntoView();
});
document.addEventListener("visibilitychange", () => document.hidden || look());
setInterval(tick, 1000);
(async function repeat() {
  if (!document.hidden) await look().catch((error) => gone("The answer cannot be shown.", error.message, false));
  setTimeout(repeat, LOOK);
})();
