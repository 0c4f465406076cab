"""The agent: a LangGraph graph. For now one node, which gives back what it was told."""

from __future__ import annotations

from functools import cache
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph


class Turn(TypedDict):
    """The graph's state: one question and its answer."""

    question: str
    answer: str


def respond(state: Turn) -> Turn:
    """Give the question back."""
    return {"question": state["question"], "answer": state["question"]}


@cache
def graph() -> CompiledStateGraph[Turn, None, Turn, Turn]:
    """The compiled graph."""
    builder = StateGraph(Turn)
    builder.add_node("responder", respond)
    builder.add_edge(START, "responder")
    builder.add_edge("responder", END)
    return builder.compile()


async def answer(question: str) -> str:
    """Run one turn."""
    state = await graph().ainvoke({"question": question, "answer": ""})
    return str(state["answer"])
