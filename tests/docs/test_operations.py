"""The file that docs/operations.md shows is one, for each of its nodes and for a router."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sessionha.keys import new_secret
from sessionha.settings import Settings
from sessionha.topology.description import Description

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


TABLES = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(new_secret())
    file = tmp_path / "cluster.toml"
    file.write_text(TABLES[0].replace("/etc/sessionha/secret", str(tmp_path / "secret")))
    return file


def test_the_file_describes_the_nodes_in_their_order(file: Path) -> None:
    found = Settings.load({"SESSIONHA_NODE": "n2", "SESSIONHA_CONFIG": str(file)})
    assert found.description.order == ("n1", "n2", "n3", "n4")
    nodes = found.description.nodes
    assert [each.role for each in nodes] == ["server", "server", "spare", "witness"]
    assert [each.engine for each in nodes[1].engines] == ["0", "1", "api"]
    assert (nodes[0].host, nodes[1].weight, found.admission) == ("rack-7", 2, "static-only")
    assert Settings.observe({}, config=file).description == found.description


@pytest.mark.parametrize(("port", "engine_type"), [(8001, "web"), (8003, "api")])
def test_a_process_is_the_engine_whose_url_it_has(file: Path, port: int, engine_type: str) -> None:
    url = f"http://10.0.0.2:{port}"
    found = Settings.load({}, config=file, node="n2", url=url)
    assert found.engine_type == engine_type


def test_the_tables_of_the_other_sections_are_accepted() -> None:
    _, witness, engines = (tomllib.loads(text) for text in TABLES)
    (node,) = Description.of_tables(witness["node"]).nodes
    assert (node.node, node.role) == ("w", "witness")
    (node,) = Description.of_tables(engines["node"]).nodes
    assert [(each.engine, each.type) for each in node.engines] == [("1", "web"), ("2", "api")]
