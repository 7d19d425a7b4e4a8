"""The programs and requests of docs/data-api.md do what the page says, at a node that listens."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client.node import TOKEN, Node, listening
from tests.docs.test_readme import blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data-api.md"
COMPUTED, CURL = [text for text in blocks(PAGE, "sh") if "SESSION" in text]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with listening() as made:
        await made.visitor.begins(cart={"lines": []})
        yield made


async def output(node: Node, *command: str) -> str:
    """What a program prints that finds everything in its environment."""
    given = {"ADMIN": node.url, "TOKEN": TOKEN, "ID": node.visitor.session_id}
    session = {"SESSION": str(node.visitor.address)[1:]}
    running = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], **given, **session},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await running.communicate()
    assert running.returncode == 0
    return printed.decode().strip()


async def test_the_programs_work_in_a_session(node: Node) -> None:
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks(PAGE, "python")), str(PAGE), "exec"), names)
    lines = [{"sku": "leaf"}]
    await node.visitor.does(lambda session: session.update(cart={"lines": lines}, draft="x"))
    await asyncio.to_thread(names["ship"], node.url, TOKEN, node.visitor.session_id)
    assert await names["count"](node.url, TOKEN, node.visitor.session_id) == 2
    found = await node.visitor.does(dict)
    assert found["cart"] == {"lines": lines, "shipped": True, "log": ["left the house"]}
    assert found["message"] == "It is on its way."
    assert "draft" not in found


@pytest.mark.needs("bash", "openssl", "basenc")
async def test_the_shell_computes_the_address(node: Node) -> None:
    printed = await output(node, "bash", "-c", f"SESSION=\n{COMPUTED}\necho /$SESSION")
    assert printed == str(node.visitor.address)


@pytest.mark.needs("node")
async def test_javascript_computes_the_address(node: Node) -> None:
    (program,) = blocks(PAGE, "js")
    program = f"const id = process.env.ID;\n{program}\nconsole.log('/' + session);"
    assert await output(node, "node", "-e", program) == str(node.visitor.address)


@pytest.mark.needs("bash", "curl")
async def test_curl_patches_a_cart(node: Node) -> None:
    assert '"copies":0' in await output(node, "bash", "-c", CURL)
    found = await node.visitor.does(dict)
    assert found["cart"]["lines"] == [{"sku": "leaf", "n": 2}]


async def test_the_requests_of_the_table_are_answered(node: Node) -> None:
    await node.visitor.does(lambda session: session.update(cart={"lines": [{"sku": "leaf"}]}))
    rows = re.findall(
        r"^\| `([A-Z]+)` \| `([^`]+)` \| (?:`(.+?)`|–) \|", PAGE.read_text(), re.MULTILINE
    )
    assert {method for method, _, _ in rows} == {"GET", "PUT", "PATCH", "POST", "DELETE"}
    answers = []
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as client:
        for method, path, body in rows:
            address = path.replace("$SESSION", str(node.visitor.address)[1:])
            answer = await client.request(
                method, f"/v1/data{address}", headers=node.visitor.headers(), content=body
            )
            assert (method, path, answer.status_code) == (method, path, 200)
            answers.append(answer.json())
    assert answers[0] == {"sku": "leaf"}
    assert [answer["value"] for answer in answers if "value" in answer] == [1, 2]
    elements = answers[-2]["elements"]
    assert elements["theme"] == {"manager": "value", "value": "dark"}
    assert elements["cart"]["value"] == {"lines": [{"sku": "leaf", "n": 2}, {"sku": "root"}]}
    assert await node.visitor.does(dict) == {}
