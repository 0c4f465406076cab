// The chat: /ws/chat as docs/chat.md has it, with streaming, and resumed after a reload or a lost connection.
// It is the application's panel of the page, which tells it "preflight:back" when the server answers again, and which it
// tells "preflight:counts" when there is a connection more.

import { webSocket } from "./live.js";
import { announce, element } from "./words.js";

const KEY = "preflight-chat"; // the id of a session in which something was said; who has it can read it: it stays in this tab
const FIRST = 500, LONGEST = 10_000; // milliseconds between attempts to connect
const DELETED = 1000; // the close code of a session that was deleted
const LARGEST = 1024 * 1024; // bytes of a message that this page tries to send; the server's own limit may be lower
const TOO_BIG = 1009; // the close code of a message that is too large to be read at all
const NEAR = 24; // pixels from the end of the transcript that count as its end

const sized = (message) => new TextEncoder().encode(JSON.stringify(message)).length; // in bytes, as it is sent

class Chat {
  #socket = null;
  #session = null; // its id, after `initialized`
  #attempts = 0;
  #retry = 0;
  #outbox = []; // what the server has not accepted yet: {id, text}
  #turns = new Map(); // turn_id -> the bubble of its answer
  #mine = new Map(); // id of a message -> its bubble
  #notice = ""; // what is to be read until somebody says something
  #at = (id) => document.getElementById(`chat-${id}`);
  #transcript = document.getElementById("transcript");

  start() {
    this.#at("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#say();
    });
    this.#at("text").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#say();
    });
    this.#at("text").addEventListener("focus", () => this.#connect());
    document.getElementById("ideas").addEventListener("click", ({ target }) => {
      if (target.closest("button")) this.#say(target.textContent);
    });
    this.#at("stop").addEventListener("click", () => this.#send({ type: "cancel" }));
    this.#at("new").addEventListener("click", () => {
      this.#begin();
      this.#at("text").focus();
    });
    // Who logs in next in this tab begins a conversation of their own.
    document.getElementById("logout").addEventListener("submit", () => sessionStorage.removeItem(KEY));
    // A session is taken up again; without one, nothing is connected until somebody wants to talk.
    if (sessionStorage.getItem(KEY)) this.#connect();
  }

  // The server is there again: no need to wait for the next attempt.
  hurry() {
    if (this.#retry) this.#connect();
  }

  #connect() {
    if (this.#socket) return;
    clearTimeout(this.#retry);
    this.#retry = 0;
    const socket = (this.#socket = webSocket("ws/chat"));
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = ({ code, reason }) => socket === this.#socket && this.#closed(code, reason);
  }

  #closed(code, reason) {
    this.#socket = this.#session = null;
    if (code === DELETED) {
      this.#begin();
      this.#note("That conversation was deleted; this is a new one.");
      return;
    }
    if (code === TOO_BIG) this.#giveBack("the server accepts no message of that size");
    const pause = Math.min(LONGEST, FIRST * 2 ** Math.min(this.#attempts, 10)) * (0.75 + Math.random() / 2);
    this.#attempts += 1;
    if (this.#attempts > 1) this.#state(reason ? `Not connected: ${reason}.` : "Not connected; trying again…");
    this.#retry = setTimeout(() => this.#connect(), pause);
  }

  // Forget the session in this tab; it stays on the server until it is too old.
  #begin() {
    sessionStorage.removeItem(KEY);
    const socket = this.#socket;
    this.#socket = this.#session = null;
    socket?.close();
    clearTimeout(this.#retry);
    this.#retry = 0;
    this.#outbox = [];
    this.#clear();
    this.#note("");
    this.#offer("new", false);
    this.#stoppable();
  }

  // Say what is written in the field, or one of the ideas.
  #say(idea) {
    const field = this.#at("text");
    const text = idea ?? field.value.trim();
    field.focus();
    if (!text) return;
    const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (sized({ type: "chat", content: text, id }) > LARGEST) {
      this.#note("Not sent: a message has 1 MiB at most. Your text is still in the field; shorten it.");
      return;
    }
    if (!idea) field.value = "";
    this.#notice = "";
    this.#outbox.push({ id, text });
    this.#mine.set(id, this.#bubble("user", text, "pending"));
    this.#toEnd();
    this.#offer("new", true);
    if (this.#session) {
      this.#remember();
      this.#send({ type: "chat", content: text, id });
    } else {
      this.#connect();
    }
  }

  // The server forgets a session in which nothing was said as soon as its connection ends, and so does this tab.
  #remember() {
    if (this.#mine.size + this.#turns.size === 0) sessionStorage.removeItem(KEY);
    else if (this.#session) sessionStorage.setItem(KEY, this.#session);
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #take(message) {
    const { type, turn_id: turn } = message;
    if (type === "connected") {
      const session = sessionStorage.getItem(KEY);
      this.#send(session ? { type: "init", session_id: session } : { type: "init" });
    } else if (type === "initialized") {
      this.#initialized(message);
    } else if (type === "accepted") {
      this.#accepted(message);
    } else if (type === "status") {
      this.#state(message.message);
      if (message.status === "resumed") this.#answer(turn).replaceChildren();
    } else if (type === "progress") {
      this.#state(message.message);
    } else if (type === "token") {
      const answer = this.#answer(turn);
      // Who comes in the middle of an answer has missed its beginning until the result brings it.
      const missed = message.index > 0 && !answer.hasChildNodes() ? "… " : "";
      this.#follow(() => answer.append(missed, message.content));
    } else if (type === "result") {
      this.#end(turn, "assistant", message.content);
    } else if (type === "history") {
      if (message.messages.length) this.#moreOf(message.session_id);
    } else if (type === "error") {
      this.#failed(message);
    }
  }

  #initialized({ session_id: session, resumed, messages }) {
    this.#attempts = 0;
    this.#session = session;
    dispatchEvent(new Event("preflight:counts"));
    const wanted = sessionStorage.getItem(KEY);
    this.#follow(() => {
      this.#clear();
      for (const { role, content, turn_id: turn, id } of messages) {
        const bubble = this.#bubble(role, content);
        if (role !== "user") this.#turns.set(turn, bubble);
        else if (id) this.#mine.set(id, bubble);
      }
      for (const { role, turn_id: turn } of messages) if (role === "user") this.#answer(turn);
      for (const { id, text } of this.#outbox) {
        if (!this.#mine.has(id)) this.#mine.set(id, this.#bubble("user", text, "pending"));
      }
    });
    this.#remember();
    this.#state(wanted && !resumed ? "The server no longer knows the earlier conversation; this is a new one." : this.#notice);
    // The same id again: what was accepted before the connection broke is not done twice.
    for (const { id, text } of this.#outbox) this.#send({ type: "chat", content: text, id });
    if (messages.length) this.#send({ type: "history", before: messages[0].seq, limit: 1 });
    this.#stoppable();
    this.#offer("new", messages.length + this.#outbox.length > 0);
  }

  // What came is not all: `initialized` brings the last messages only.
  #moreOf(session) {
    const link = element("a", { href: `sessions/${encodeURIComponent(session)}`, target: "_blank", textContent: "The whole conversation (JSON)" });
    this.#transcript.querySelector(".earlier")?.remove();
    this.#follow(() => this.#transcript.prepend(element("p", { className: "earlier" }, "These are the last messages only. ", link)));
  }

  #accepted({ id, content, turn_id: turn, duplicate }) {
    this.#outbox = this.#outbox.filter((message) => message.id !== id);
    const bubble = this.#mine.get(id) ?? this.#bubble("user", content);
    bubble.classList.remove("pending");
    bubble.lastChild.textContent = content;
    if (!duplicate) this.#answer(turn);
    this.#stoppable();
  }

  // A message that the server does not take, because it is too long, goes back to where it can be shortened. The server
  // has not read whose it is; whichever is the longest of those that wait is too long, if any of them is.
  #giveBack(why) {
    const longest = this.#outbox.reduce((one, other) => (one && sized(one) >= sized(other) ? one : other), null);
    if (!longest) return;
    this.#outbox = this.#outbox.filter((message) => message !== longest);
    this.#mine.get(longest.id)?.remove();
    this.#mine.delete(longest.id);
    this.#remember();
    const field = this.#at("text");
    field.value = [longest.text, field.value].filter(Boolean).join("\n");
    this.#note(`Not sent: ${why.replace(/\.$/, "")}. Your text is in the field again; shorten it.`);
    this.#stoppable();
  }

  #failed({ turn_id: turn, id, code, message }) {
    if (turn) {
      this.#end(turn, "error", message);
    } else if (code === "too_large") {
      this.#giveBack(message);
    } else if (id && this.#mine.has(id)) {
      this.#outbox = this.#outbox.filter((one) => one.id !== id);
      this.#mine.get(id).classList.replace("pending", "refused");
      this.#state(`Not sent: ${message}`);
    } else if (code !== "nothing_to_cancel") {
      this.#state(message);
    }
  }

  #end(turn, role, content) {
    const answer = this.#answer(turn);
    this.#follow(() => {
      answer.textContent = content;
      answer.parentElement.className = `bubble ${role}`;
    });
    this.#state(this.#notice);
    this.#stoppable();
    announce(`${role === "error" ? "Error" : "Answer"}: ${content}`);
  }

  // The place of a turn's answer, made when it is first needed.
  #answer(turn) {
    if (!this.#turns.has(turn)) this.#turns.set(turn, this.#bubble("assistant", "", "working"));
    return this.#turns.get(turn).lastChild;
  }

  #bubble(role, text, more = "") {
    // What is written decides where it begins; the name before it is none of it.
    const who = element("span", { className: "unseen", dir: "ltr", textContent: role === "user" ? "You: " : role === "error" ? "Error: " : "Server: " });
    const bubble = element("div", { className: `bubble ${role} ${more}`, dir: "auto" }, who, element("div", { className: "text", textContent: text }));
    document.getElementById("ideas").hidden = true;
    this.#follow(() => this.#transcript.append(bubble));
    return bubble;
  }

  // Stop is there as long as a turn works.
  #stoppable() {
    this.#offer("stop", this.#transcript.querySelector(".working") !== null);
  }

  // A button that goes would take the focus with it: the field is where to go on.
  #offer(name, offered) {
    const button = this.#at(name);
    if (!offered && button === document.activeElement) this.#at("text").focus();
    button.hidden = !offered;
  }

  #clear() {
    this.#transcript.replaceChildren();
    document.getElementById("ideas").hidden = false;
    this.#turns.clear();
    this.#mine.clear();
  }

  // Change the transcript, and stay at its end; who has scrolled up to read stays where they are.
  #follow(change) {
    const { scrollTop, clientHeight, scrollHeight } = this.#transcript;
    change();
    if (scrollHeight - scrollTop - clientHeight < NEAR) this.#toEnd();
    else this.#transcript.scrollTop = scrollTop;
  }

  #toEnd() {
    this.#transcript.scrollTop = this.#transcript.scrollHeight;
  }

  #note(text) {
    this.#notice = text;
    this.#state(text);
  }

  #state(text) {
    const place = this.#at("state");
    if (place.textContent !== text) place.textContent = text;
  }
}

const chat = new Chat();
addEventListener("preflight:back", () => chat.hurry());
chat.start();
