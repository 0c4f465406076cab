"""The chat: a WebSocket at /ws/chat, and its sessions.

1. `routes` is the chat's part of the table of routes. `service` is the entry point, and light, because every start
   imports it; the modules behind it are imported when they are needed.
2. `connections` reads a client's frames, which `messages` checks; `dialects` writes messages that older clients
   understand.
3. `hub` has the connections and the live sessions. `turns` runs a session's turns (`turn`), one at a time, and
   publishes them to the session's followers, redacted word by word (`words`). `unfinished` takes up turns that other
   processes have left. All use `resources`: the store, the agent, the redactor.
4. `archive` lists, exports and deletes sessions over HTTP; `metrics` counts. `page/` is the chat's panel of the page.

:mod:`server.agent` finds the answers, and :mod:`server.sessions` stores them.
"""
