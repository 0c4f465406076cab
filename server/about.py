"""What the agent server says about itself."""

TITLE = "Agent server"
ARCHITECTURE = "LangGraph StateGraph behind FastAPI"
DESCRIPTION = "The chat is a WebSocket at /ws/chat; GET /chat/schema.json has its messages."
