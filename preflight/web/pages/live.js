// The line to the server: /ws/diagnostics with back-off, and plain HTTP where WebSockets do not come through.
//
// Events: "link" ({state, retryAt, refused}), "snapshot" ({diagnostics, run}), and the server's messages by their type.

const FIRST = 500, LONGEST = 10_000; // milliseconds between attempts
const POLL = 5_000; // between looks where there are no live updates
const GRACE = 1_000; // so long a connection may be away before anybody is told
const SERVICE_RESTART = 1012; // the close code of a server that stops or is replaced
const PING = 20_000, PATIENCE = 10_000; // when to ask whether it is still there, and how long to wait for anything

export class Refused extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter; // seconds
  }
}

// What the page's requests have to carry beside the login's cookie, where another application has the same origin.
const nonce = document.querySelector('meta[name="preflight-nonce"]')?.content;
export const PROOF = nonce ? { "X-Preflight-Nonce": nonce } : {};

// The JSON document at a path of this server. Throws Refused with its error, and Error if there is no answer.
export async function ask(path, options = {}) {
  const answer = await fetch(path, {
    headers: { Accept: "application/json", ...PROOF },
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE),
    ...options,
  }).catch(() => { throw new Error("the server does not answer"); });
  const body = await answer.json().catch(() => null);
  // 503 is what /health answers with all that it knows.
  if (!answer.ok && !(body && "status" in body)) {
    throw new Refused(answer.status, body?.error ?? `the server answered ${answer.status}`, body?.retry_after);
  }
  if (body === null) throw new Error("the server's answer broke off"); // it crashed in the middle of it
  return body;
}

export function webSocket(path) {
  const url = new URL(path, document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return nonce ? new WebSocket(url, ["preflight.v1", `preflight.nonce.${nonce}`]) : new WebSocket(url);
}

export class Live extends EventTarget {
  state = "connecting"; // then "live", "polling", "lost" or "refused"
  #socket = null;
  #attempts = 0;
  #heard = 0;
  #retry = 0;
  #grace = 0;

  start() {
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
    setInterval(() => this.#feel(), PING);
    this.#connect();
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // Ask now instead of waiting for the next message.
  async refresh() {
    this.tell("snapshot", { diagnostics: await ask("diagnostics"), run: null });
  }

  #become(state, more = {}) {
    clearTimeout(this.#grace);
    this.#grace = 0;
    this.state = state;
    this.tell("link", { state, ...more });
  }

  #connect() {
    clearTimeout(this.#retry);
    this.#retry = 0;
    const socket = (this.#socket = webSocket("ws/diagnostics"));
    const late = setTimeout(() => socket === this.#socket && this.#ended(), PATIENCE);
    socket.onmessage = ({ data }) => {
      clearTimeout(late);
      this.#heard = Date.now();
      const message = JSON.parse(data);
      if (this.state !== "live" || this.#grace) this.#become("live");
      this.#attempts = 0;
      this.tell(message.type, message);
    };
    socket.onclose = ({ code }) => {
      clearTimeout(late);
      if (socket === this.#socket) this.#ended(code);
    };
  }

  // The connection is over, or was never made.
  async #ended(code) {
    const socket = this.#socket;
    this.#socket = null;
    socket.close();
    if (this.state === "live" && !this.#grace) {
      // A server that is being replaced is back before anybody has read that it was gone.
      this.#grace = setTimeout(() => this.#become("lost", { retryAt: Date.now() }), GRACE);
      this.#retry = setTimeout(() => this.#connect(), Math.random() * GRACE / 4);
      return;
    }
    if (this.#grace && code === SERVICE_RESTART) {
      this.#again(Math.random() * GRACE / 4); // the old one, once more
      return;
    }
    const attempts = (this.#attempts += 1);
    const pause = Math.min(LONGEST, FIRST * 2 ** Math.min(attempts - 1, 10)) * (0.75 + Math.random() / 2);
    try {
      // What a server says that is about to go is no news of the one that comes.
      const leaving = code === SERVICE_RESTART || (await ask("health")).status === "draining";
      if (leaving) throw new Refused(503, "the server is stopping or being replaced");
      await this.refresh();
      this.#again(POLL);
      this.#become("polling");
    } catch (error) {
      this.#again(pause);
      const refused = error instanceof Refused && error.status < 500;
      this.#become(refused ? "refused" : "lost", { retryAt: Date.now() + pause, refused: refused ? error : null });
    }
  }

  #again(pause) {
    this.#retry = setTimeout(() => this.#connect(), pause);
  }

  // Somebody looks, or the network is back: do not wait for the next attempt.
  #hurry() {
    if (this.#retry) this.#connect();
    else this.#feel();
  }

  // A connection can be dead without a word: whatever comes next proves that it is not.
  #feel() {
    const socket = this.#socket;
    if (socket?.readyState !== WebSocket.OPEN) return;
    const asked = Date.now();
    socket.send('{"type": "ping"}');
    setTimeout(() => socket === this.#socket && this.#heard < asked && this.#ended(), PATIENCE);
  }
}
