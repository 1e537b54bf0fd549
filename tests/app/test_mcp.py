"""The app as agents meet it: an MCP server whose tools are the three endpoints."""

from __future__ import annotations

import ast
import asyncio
from typing import Any

from tests.support.served import BLUE, QUESTION, app
from vlmcomp.app import results
from vlmcomp.app.details import data_uri
from vlmcomp.data.images import open_image


async def _talk(url: str) -> tuple[dict[str, Any], list[Any]]:
    """The tools by name, and what two of them say."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            names = {name.rpartition("_")[2]: name for name in tools}
            asked = {"image": data_uri(open_image(BLUE)), "question": QUESTION, "recipes": ["llava-shapes/int8"]}
            said = [
                await session.call_tool(names["compare"], asked),
                await session.call_tool(names["results"], {"model": "llava-shapes"}),
                await session.call_tool(names["recommend"], {"memory": "lots"}),
            ]
    return {name: tools[full] for name, full in names.items()}, said


def test_agents_find_and_use_the_endpoints() -> None:
    with app() as url:
        tools, (compared, listed, refused) = asyncio.run(_talk(url))
    assert set(tools) == {"compare", "recommend", "results"}
    assert all(tool.description for tool in tools.values())
    recipes = tools["compare"].inputSchema["properties"]["recipes"]
    assert recipes["type"] == "array" and recipes["items"] == {"type": "string"}
    (card,) = ast.literal_eval(compared.content[0].text)
    assert not compared.isError and card["answer"] == "blue" and card["recipe"] == "llava-shapes/int8"
    assert ast.literal_eval(listed.content[0].text) == results.to_records(model="llava-shapes")
    assert refused.isError and "not an amount of memory" in refused.content[0].text
