"""The agent: a LangGraph graph that answers a question about the server.

1. `graph` has the nodes that decide, look something up, and answer. Its `tools` ask the server for its data.
2. `provider` asks a language model, and `failures` explains why there was no answer; `completions` uses only the
   features that OpenAI-compatible services share. Without a key, `embedded` answers only from the tools.

The agent is imported while the server already serves. It knows neither the clients nor the stored sessions.
"""
