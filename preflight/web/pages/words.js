// How the page says things: outcomes, verdicts, times.

// What a report's status is called, and which sign stands for it.
export const VERDICTS = {
  passed: { word: "Ready", sign: "passed" },
  warnings: { word: "Ready, with warnings", sign: "warnings" },
  failed: { word: "Not ready", sign: "failed" },
  broken: { word: "The suite broke", sign: "failed" },
  "not run": { word: "Not checked", sign: "unknown" },
};

export const OUTCOMES = {
  passed: "passed",
  failed: "failed",
  error: "broke",
  timeout: "timed out",
  skipped: "skipped",
  unknown: "unknown",
  not_applicable: "left out",
  ignored: "ignored",
};

// Outcomes with which a critical check does not block a start.
const PASSABLE = new Set(["passed", "unknown", "not_applicable", "ignored"]);

// The sign of a check: "failed" blocks a start, "warnings" deserves a look.
export function signOf({ severity, outcome }) {
  if (outcome === "passed") return "passed";
  if (outcome === "not_applicable") return "left-out";
  if (severity === "critical" && !PASSABLE.has(outcome)) return "failed";
  return outcome === "unknown" ? "unknown" : "warnings";
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

// Seconds, as people say them: "8 s", "3 min", "2 h", "5 days".
export function lasting(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 48 * 3600) return `${Math.floor(whole / 3600)} h`;
  return `${Math.floor(whole / 86400)} days`;
}

export function ago(seconds) {
  return seconds < 2 ? "just now" : `${lasting(seconds)} ago`;
}

// Milliseconds with three digits at most.
export function brief(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 2 : 1)} s`;
  return milliseconds >= 10 ? `${Math.round(milliseconds)} ms` : `${milliseconds.toFixed(1)} ms`;
}

// A time of a report ("2026-01-02T03:04:05Z") on this person's clock, with its zone.
export function clock(stamp) {
  const date = { year: "numeric", month: "short", day: "numeric" };
  const time = { hour: "numeric", minute: "2-digit", second: "2-digit", timeZoneName: "short" };
  return new Date(stamp).toLocaleString(undefined, { ...date, ...time });
}

// "9 passed, 6 left out"; the total is left to the reader.
export function summed(summary) {
  const parts = Object.entries(summary).filter(([outcome, count]) => outcome !== "total" && count);
  return parts.map(([outcome, count]) => `${count} ${OUTCOMES[outcome] ?? outcome}`).join(", ");
}

// The address of a server as its reports have it: "127.0.0.1:8002", "[::1]:8002".
export function addressOf({ host, port, uds }) {
  if (uds) return `unix:${uds}`;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function sign(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  svg.firstChild.setAttribute("href", `#sign-${name}`);
  return svg;
}

// Says it to those who do not see the page; the same words twice are said twice.
export function announce(text) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  setTimeout(() => { region.textContent = text; }, 50);
}
