"""The agent: a LangGraph graph that answers a question about the server.

1. `graph` has the nodes: who decides, who looks something up, who answers. Its `tools` ask what the server knows.
2. `provider` asks a language model and says in `failures` why there was no answer; `completions` keeps to what
   OpenAI-compatible services have in common. Without a key, `embedded` answers from the tools alone.

It is imported while the server already serves. It knows neither clients nor what is kept of a session.
"""
