"""The compose override and the kustomize component for a cluster of Redis match the files that they add to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from services.ingest.settings import read_settings
from shared.queue.cluster import is_cluster_url

ROOT = Path(__file__).resolve().parents[3]
OVERRIDE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.cluster.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
SECRET = {"KURIR_INTERNAL_SECRET": "what all services know"}
NODES = ["redis", *(f"redis-{number}" for number in range(2, 7))]
COMPONENT = ROOT / "deploy" / "kubernetes" / "cluster" / "kustomization.yaml"
_DEFAULTED = re.compile(r"\$\{[A-Z_]+:-([^}]*)\}")


def test_the_override_is_valid() -> None:
    """The compose specification's own schema accepts it."""
    jsonschema.validate(OVERRIDE, get_builtin_schema("vendor.compose-spec"))


@pytest.mark.parametrize("name", NODES[1:])
def test_every_further_node_is_like_the_first(name: str) -> None:
    """It differs only in its name and its volume, and in what makes it a node; its data survives."""
    first, node = SERVICES["redis"], dict(OVERRIDE["services"][name])
    assert node.pop("environment") == {"REDIS_NODE": name, **first["environment"]}
    assert node.pop("volumes") == [f"{name}:/data", *first["volumes"][1:]]
    assert name in OVERRIDE["volumes"]
    assert node == {key: first[key] for key in first if key not in {"environment", "volumes"}}


def test_the_cluster_is_made_of_all_nodes_once_they_run() -> None:
    """The one that makes it waits for all, and nothing else waits for less than a whole cluster."""
    maker = OVERRIDE["services"]["make-cluster"]
    assert maker["command"][2:] == NODES
    assert maker["depends_on"] == {name: {"condition": "service_started"} for name in NODES}
    # no list of the first node's is overridden: compose programs merge lists in different ways
    assert OVERRIDE["services"]["redis"] == {"environment": {"REDIS_NODE": "redis"}}
    assert "cluster_state:ok" in (ROOT / "deploy" / "redis" / "health.sh").read_text()


def test_no_service_is_started_before_the_cluster_is_made() -> None:
    """Programs that start services one by one would otherwise wait forever for its first node to be healthy."""
    made = {"make-cluster": {"condition": "service_healthy"}}
    waiting = {name: one.get("depends_on", {}) for name, one in SERVICES.items() if "KURIR_PORT" in str(one)}
    assert {name: OVERRIDE["services"][name]["depends_on"] for name in waiting} == dict.fromkeys(waiting, made)
    # a list would replace the mapping, or be refused
    assert all(isinstance(depends_on, dict) for depends_on in waiting.values())


def test_every_service_gets_the_same_cluster() -> None:
    """Its address has nodes of the file, the partitions are two to four for each master, replicas confirm."""
    given = [OVERRIDE["services"][name]["environment"] for name in SERVICES if "KURIR_PORT" in str(SERVICES[name])]
    assert len(given) == 7
    assert all(one == given[0] for one in given)
    values = {name: _default(text) for name, text in given[0].items()}
    assert is_cluster_url(values["KURIR_REDIS_URL"])
    assert set(re.findall(r"[@,]([a-z0-9-]+):6379", values["KURIR_REDIS_URL"])) < set(NODES)
    assert 2 * 3 <= int(values["KURIR_PARTITIONS"]) <= 4 * 3
    settings = read_settings(SECRET | values)
    assert (settings.common.partitions, settings.common.replicas) == (12, 1)


def test_the_component_sets_what_the_services_read() -> None:
    """It adds to the settings that all pods have, as kustomize merges them."""
    (generator,) = yaml.safe_load(COMPONENT.read_text())["configMapGenerator"]
    base = yaml.safe_load((COMPONENT.parents[1] / "kustomization.yaml").read_text())["configMapGenerator"]
    assert (generator["name"], generator["behavior"]) == (base[0]["name"], "merge")
    values = dict(literal.split("=") for literal in generator["literals"])
    assert set(values) == {"KURIR_PARTITIONS", "KURIR_REDIS_REPLICAS"}
    assert not set(values) & {
        line.split("=")[0] for line in (COMPONENT.parents[1] / "settings.env").read_text().splitlines()
    }
    read_settings(SECRET | {"KURIR_REDIS_URL": "redis+cluster://a:6379,b:6379", **values})


def _default(text: str) -> str:
    match = _DEFAULTED.fullmatch(text)
    assert match is not None, text
    return match[1]
