"""What a guarded application can show of itself, and who may see it.

In the order in which a request meets it:

1. `security` decides from the request's headers alone who may see what, and gives every answer its headers. `login` is
   the way in for people with a browser.
2. `answers` sends the routes that are asked most often without the framework: `health` and `diagnostics`.
3. The other routes come behind it: `history`, `reruns`, `metrics`, the page in `pages`, and the WebSocket of
   `followers`, which stands on `websocket`. `negotiation` and `paging` read what a client wants.
4. What they show comes from `snapshot`, the newest trustworthy report of this address, and from `instance`, the
   application's only way to its launcher: through it the application asks for re-runs and writes to the audit.

A GET never runs a check. Nothing here knows what the application itself does, or which framework it uses.
"""
