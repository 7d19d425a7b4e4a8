"""The manifests of adapters/kubernetes: what the API takes, and settings that nodes start with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sessionha.cli import main
from sessionha.keys import new_secret
from sessionha.settings import PEER_PORT, Settings

HERE = Path(__file__).resolve().parents[2] / "adapters" / "kubernetes"
FILES = ("statefulset.yaml", "deployment.yaml", "router.yaml")
APPLICATIONS = ("statefulset.yaml", "deployment.yaml")
VERSIONS = ("1.27", "1.37")
"""The first in which a budget's `unhealthyPodEvictionPolicy` is on, and the newest known here."""

UNITS = {"Mi": 2**20, "Gi": 2**30}

Manifest = dict[str, Any]


def read(file: str) -> list[Manifest]:
    return list(yaml.safe_load_all((HERE / file).read_text(encoding="utf-8")))


def kind_of(file: str, kind: str, name: str = "") -> Manifest:
    found = [
        each
        for each in read(file)
        if each["kind"] == kind and name in ("", each["metadata"]["name"])
    ]
    assert len(found) == 1
    return found[0]


def workload(file: str) -> Manifest:
    """What makes the pods."""
    kinds = ("StatefulSet", "Deployment")
    return next(each for each in read(file) if each["kind"] in kinds)


def pod(file: str) -> tuple[Manifest, Manifest]:
    """The pod and its only container."""
    spec = workload(file)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def environment(file: str, node: str = "shop-0") -> dict[str, str]:
    """What a container of the workload has in its environment."""
    fields = {
        "status.podIP": "10.1.2.3",
        "metadata.name": node,
        "spec.nodeName": "worker-1",
    }
    found: dict[str, str] = {}
    for row in pod(file)[1]["env"]:
        source = row.get("valueFrom", {})
        value = row.get("value", new_secret())
        if "fieldRef" in source:
            value = fields[source["fieldRef"]["fieldPath"]]
        for name, text in found.items():
            value = value.replace(f"$({name})", text)
        found[row["name"]] = value
    return found


def settings(file: str) -> Settings:
    """The settings that a node has there; raises for any mistake."""
    return Settings.load(environment(file))


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_the_schemas_of_kubernetes_accept_every_object(file: str, version: str) -> None:
    """Strictly: no field that the API does not know."""
    for manifest in read(file):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    """Else the test above would say nothing."""
    manifest = workload("statefulset.yaml")
    manifest["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[1], strict=True)


def test_three_named_pods_vote_and_keep_their_votes_on_a_disk() -> None:
    stateful = kind_of("statefulset.yaml", "StatefulSet")["spec"]
    found = settings("statefulset.yaml")
    assert list(found.description.addresses) == [f"shop-{n}" for n in range(stateful["replicas"])]
    assert found.consistency == "quorum"
    host = f"shop-0.{stateful['serviceName']}"
    assert found.advertise == f"{host}:{PEER_PORT}"
    (claim,) = stateful["volumeClaimTemplates"]
    mounts = {
        mount["name"]: mount["mountPath"] for mount in pod("statefulset.yaml")[1]["volumeMounts"]
    }
    assert mounts[claim["metadata"]["name"]] == str(found.state_dir)
    assert stateful["podManagementPolicy"] == "Parallel", "the first start needs every node"


def test_pods_that_come_and_go_find_each_other_and_need_no_disk() -> None:
    found = settings("deployment.yaml")
    assert str(found.discovery).startswith("dns://shop-peers:7946")
    assert (found.consistency, found.admission) == ("available", "dynamic")
    assert found.advertise == "10.1.2.3:7946"


@pytest.mark.parametrize("file", APPLICATIONS)
def test_peers_are_published_before_they_are_ready(file: str) -> None:
    service = kind_of(file, "Service", "shop-peers")["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert [port["port"] for port in service["ports"]] == [PEER_PORT]
    labels = workload(file)["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


@pytest.mark.parametrize("file", APPLICATIONS)
def test_the_store_is_in_memory_and_has_room(file: str) -> None:
    spec, container = pod(file)
    found = settings(file)
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == found.store]
    (volume,) = [each for each in spec["volumes"] if each["name"] == mount["name"]]
    assert volume["emptyDir"]["medium"] == "Memory"
    assert size(volume["emptyDir"]["sizeLimit"]) > found.store_size
    assert size(container["resources"]["limits"]["memory"]) >= 4 * found.store_size


@pytest.mark.parametrize("file", APPLICATIONS)
def test_probes_and_the_end_of_a_pod_agree_with_the_settings(file: str) -> None:
    spec, container = pod(file)
    found = settings(file)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert found.url == f"http://10.1.2.3:{ports['http']}"
    assert ports["peer"] == int(found.listen.rpartition(":")[2])
    prefix = found.health_path.rstrip("/")
    assert container["readinessProbe"]["httpGet"] == {"path": f"{prefix}/readyz", "port": "http"}
    for probe in ("livenessProbe", "startupProbe"):
        assert container[probe]["httpGet"] == {"path": f"{prefix}/healthz", "port": "http"}
    checks = container["readinessProbe"]["periodSeconds"]
    assert 2 * checks <= found.drain_delay, "two checks notice a drain"
    assert spec["terminationGracePeriodSeconds"] > found.drain_timeout + found.drain_delay + 30


@pytest.mark.parametrize(("file", "restart"), list(zip(APPLICATIONS, (True, False), strict=True)))
def test_a_pod_drains_before_it_stops(
    file: str, restart: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the words of the command as it is; a name that comes back keeps its copies."""
    shell, option, script = pod(file)[1]["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, option) == ("sh", "-c")
    command = script.replace('"$HOSTNAME"', "shop-0").split()
    assert command[:3] == ["sessionha", "drain", "shop-0"]
    assert ("--restart" in command) is restart
    monkeypatch.setenv("SESSIONHA_SECRET", new_secret())
    monkeypatch.setenv("SESSIONHA_ADMIN", "127.0.0.1:1")
    assert main(command[1:]) == 1, "it is understood, and nobody answers here"
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("file", FILES)
def test_one_pod_at_a_time_may_be_taken_away(file: str) -> None:
    made = workload(file)
    budget = kind_of(file, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"] == made["spec"]["selector"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("file", APPLICATIONS)
def test_only_nodes_and_routers_reach_the_port_of_peers(file: str) -> None:
    peers, clients = kind_of(file, "NetworkPolicy")["spec"]["ingress"]
    apps = {each["podSelector"]["matchLabels"]["app"] for each in peers["from"]}
    assert peers["ports"] == [{"port": "peer"}]
    assert apps == {workload(name)["metadata"]["labels"]["app"] for name in (file, "router.yaml")}
    assert clients["ports"] == [{"port": "http"}]


def test_routers_follow_the_same_cluster_and_the_ingress_leads_to_them() -> None:
    _, container = pod("router.yaml")
    theirs, nodes = environment("router.yaml"), environment("statefulset.yaml")
    for name in ("SESSIONHA_NODES", "SESSIONHA_CLUSTER"):
        assert theirs[name] == nodes[name]
    assert Settings.observe(theirs).has_nodes
    probe = container["readinessProbe"]["httpGet"]["path"]
    assert f"--health-path={probe}" in container["args"]
    (rule,) = kind_of("router.yaml", "Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = kind_of("router.yaml", "Service")
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == workload("router.yaml")["spec"]["selector"]["matchLabels"]
