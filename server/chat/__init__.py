"""The chat: a WebSocket at /ws/chat, and the sessions that it leaves behind.

1. `routes` is its part of the table of routes. `service` is the way in, and light, because every start imports it; what
   it leads to is imported when it is needed.
2. `connections` reads a client's frames, which `messages` checks; `dialects` writes what older clients understand.
3. `hub` has the connections and the live sessions. `turns` does a session's turns, one at a time, and publishes them to
   those who follow. Both stand on `resources`: the store, the agent, the redactor.
4. `archive` lists, exports and deletes sessions over HTTP; `metrics` counts. `page/` is its panel of the page.

How an answer is found is the agent's affair (:mod:`server.agent`), how it is kept that of :mod:`server.sessions`.
"""
