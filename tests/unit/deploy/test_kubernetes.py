"""The Kubernetes files are valid by Kubernetes' and KEDA's schemas and match the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from shared.settings import parse_seconds

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
# every API used here exists since 1.21 and none is deprecated, so the newest version covers all
VERSION = "1.37"
KINDS = {"Deployment", "StatefulSet"}


def _documents() -> Iterator[dict[str, Any]]:
    """Yield the resources with the patches of the kustomization, as kustomize applies them."""
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    patches = [
        (one["target"]["kind"], yaml.safe_load((FOLDER / one["path"]).read_text())) for one in kustomization["patches"]
    ]
    for name in kustomization["resources"]:
        for document in yaml.safe_load_all((FOLDER / name).read_text()):
            for kind, steps in patches:
                if re.fullmatch(kind, document["kind"]):
                    _patch(document, steps)
            yield document


def _patch(document: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    """Apply a JSON Patch (RFC 6902) that only adds."""
    for step in steps:
        assert step["op"] == "add"
        *parents, last = step["path"].removeprefix("/").split("/")
        target: Any = document
        for one in parents:
            target = target[int(one) if isinstance(target, list) else one]
        if isinstance(target, list):
            assert last == "-"
            target.append(step["value"])
        else:
            target[last] = step["value"]


def _name(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


DOCUMENTS = list(_documents())
OWN = [document for document in DOCUMENTS if not document["apiVersion"].startswith("keda.sh")]
SCALED = [document for document in DOCUMENTS if document["apiVersion"].startswith("keda.sh")]
WORKLOADS = [document for document in DOCUMENTS if document["kind"] in KINDS]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")
def test_kustomize_applies_the_patch_as_these_tests_do() -> None:
    """`kubectl kustomize` renders the same pods; it only adds the label and the suffix of the settings' name."""
    command = ["kubectl", "kustomize", str(FOLDER)]
    rendered = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True).stdout
    rendered = re.sub(r"kurir-settings-\w+", "kurir-settings", rendered).replace("kurir:latest", "kurir")
    pods = {_name(one): one["spec"]["template"]["spec"] for one in yaml.safe_load_all(rendered) if one["kind"] in KINDS}
    for document in WORKLOADS:
        pod = deepcopy(document["spec"]["template"]["spec"])
        for spread in pod.get("topologySpreadConstraints", ()):
            spread["labelSelector"]["matchLabels"] |= {"app.kubernetes.io/part-of": "kurir"}
        assert pods.pop(_name(document)) == pod
    assert not pods


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")
@pytest.mark.parametrize("names", [["cluster"], ["postgres"], ["cluster", "postgres"]], ids="+".join)
def test_kustomize_adds_the_components(tmp_path: Path, names: list[str]) -> None:
    """`kubectl kustomize` renders valid resources with each component, and with both: they change what they say."""
    folder = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, folder)
    with (folder / "kustomization.yaml").open("a") as kustomization:
        kustomization.write(yaml.safe_dump({"components": names}))
    command = ["kubectl", "kustomize", str(folder)]
    rendered = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True).stdout
    documents = list(yaml.safe_load_all(rendered))
    for document in documents:
        if not document["apiVersion"].startswith("keda.sh"):
            kubernetes_validate.validate(document, VERSION, strict=True)
    (settings,) = [one["data"] for one in documents if one["kind"] == "ConfigMap"]
    (logger,) = [one["spec"] for one in documents if _name(one) == "StatefulSet-logger"]
    (container,) = logger["template"]["spec"]["containers"]
    given = {one["name"] for one in container["env"]}
    assert ("KURIR_PARTITIONS" in settings) == ("KURIR_REDIS_REPLICAS" in settings) == ("cluster" in names)
    assert ("KURIR_DATABASE_URL_FILE" in given) == (logger["replicas"] == 2) == ("postgres" in names)
    assert {_name(one) for one in documents if one["kind"] != "ConfigMap"} == {_name(one) for one in DOCUMENTS}


def test_pods_differ_only_where_their_services_do() -> None:
    """What all pods have alike is in one file, the patch; no service sets it itself."""
    shared = {"securityContext", "startupProbe", "livenessProbe", "readinessProbe", "envFrom", "image"}
    for path in (FOLDER / name for name in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] in KINDS:
                pod = document["spec"]["template"]["spec"]
                assert shared.isdisjoint(pod), _name(document)
                assert shared.isdisjoint(*pod["containers"]), _name(document)
                assert "tmp" not in {volume["name"] for volume in pod["volumes"]}, _name(document)


def test_resources_are_valid() -> None:
    """The check is strict, since Kubernetes silently drops unknown fields."""
    for document in OWN:
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_validator_finds_a_mistake() -> None:
    """A misspelt field fails, so the test above can fail."""
    broken = json.loads(json.dumps(WORKLOADS[0]))
    broken["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@cache
def _keda_schema() -> dict[str, Any]:
    """Return the schema of KEDA's CRD, closed: like Kubernetes, its models drop unknown fields."""
    # two thousand models, which every process that collects the tests would make
    from cloudcoil.models.keda.v1alpha1 import ScaledObject  # noqa: PLC0415

    schema = ScaledObject.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return schema


@pytest.mark.parametrize("document", SCALED, ids=_name)
def test_scaled_objects_are_valid(document: dict[str, Any]) -> None:
    """Each is valid by KEDA's CRD, without unknown fields."""
    schema = _keda_schema()
    jsonschema.validate(document, schema)
    broken = {**document, "spec": {**document["spec"], "minReplicas": 1}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_scaled_objects_query_existing_metrics() -> None:
    """They read `kurir_queue_waiting` for the channel whose sender they scale."""
    for document in SCALED:
        (trigger,) = document["spec"]["triggers"]
        channel = document["spec"]["scaleTargetRef"]["name"].removesuffix("-sender")
        assert trigger["metadata"]["query"] == f'sum(kurir_queue_waiting{{channel="{channel}"}})'
    assert "kurir_queue_waiting" in (ROOT / "services" / "logger" / "metrics.py").read_text()


def test_references_between_resources_resolve() -> None:
    """Selectors, scale targets and volume mounts name existing resources."""
    names = {document["metadata"]["name"] for document in WORKLOADS}
    assert {document["spec"]["scaleTargetRef"]["name"] for document in SCALED} <= names
    for document in DOCUMENTS:
        if document["kind"] in {"Service", "PodDisruptionBudget"}:
            selector = document["spec"]["selector"]
            assert (selector.get("matchLabels") or selector)["app.kubernetes.io/name"] in names, _name(document)
    for document in WORKLOADS:
        pod = document["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, _name(document)


@pytest.mark.parametrize("document", WORKLOADS, ids=_name)
def test_secrets_that_are_read_are_mounted(document: dict[str, Any]) -> None:
    """Each service finds the file of every secret that it needs, and only those."""
    pod = document["spec"]["template"]["spec"]
    settings = dict(line.split("=", 1) for line in (FOLDER / "settings.env").read_text().splitlines())
    (container,) = pod["containers"]
    settings |= {variable["name"]: variable["value"] for variable in container["env"]}
    (mounted,) = [volume["secret"]["items"] for volume in pod["volumes"] if "secret" in volume]
    paths = {f"/run/secrets/kurir/{item['path']}" for item in mounted}
    assert settings["KURIR_REDIS_URL_FILE"] in paths
    needed = {"ingest": "KURIR_API_KEYS_FILE", "email-sender": "KURIR_SMTP_URL_FILE", "logger": "KURIR_SECRET_FILE"}
    needed |= {"whatsapp-sender": "KURIR_QISCUS_SECRET_KEY_FILE", "receipts": "KURIR_SECRET_FILE"}
    needed |= {"webhook-sender": "KURIR_INTERNAL_SECRET_FILE"}
    assert settings[needed[document["metadata"]["name"]]] in paths
    assert len(paths) <= 4


@pytest.mark.parametrize(
    ("volume", "workload", "setting"),
    [
        ("dkim", "email-sender", "KURIR_DKIM_KEYS=example.com:s1:{path}/example.com.pem"),
        ("hooks", "ingest", "KURIR_HOOK_TOKEN_FILE={path}/token"),
        ("meta", "whatsapp-sender", "KURIR_META_ACCESS_TOKEN_FILE={path}/access_token"),
    ],
)
def test_an_optional_secret_is_mounted_only_for_one_service(volume: str, workload: str, setting: str) -> None:
    """It is mounted whole, so adding a file to it needs no change here; other users cannot read it."""
    mounting = {
        document["metadata"]["name"]: one["projected"]
        for document in WORKLOADS
        for one in document["spec"]["template"]["spec"]["volumes"]
        if one["name"] == volume
    }
    source = {"secret": {"name": f"kurir-{volume}", "optional": True}}
    assert mounting == {workload: {"defaultMode": 0o440, "sources": [source]}}
    (document,) = [one for one in WORKLOADS if one["metadata"]["name"] == workload]
    (container,) = document["spec"]["template"]["spec"]["containers"]
    (path,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume]
    assert setting.format(path=path) in (FOLDER / "kustomization.yaml").read_text()


def test_the_component_for_postgresql_gives_two_loggers_the_url() -> None:
    """The patched resource is valid, and the setting names a file of the secret that is mounted."""
    folder = FOLDER / "postgres"
    component = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (patch,) = component["patches"]
    (document,) = [deepcopy(one) for one in WORKLOADS if _name(one) == "{kind}-{name}".format(**patch["target"])]
    _patch(document, yaml.safe_load((folder / patch["path"]).read_text()))
    kubernetes_validate.validate(document, VERSION, strict=True)
    assert document["spec"]["replicas"] == 2
    (container,) = document["spec"]["template"]["spec"]["containers"]
    (setting,) = [one["value"] for one in container["env"] if one["name"] == "KURIR_DATABASE_URL_FILE"]
    path, _, key = setting.rpartition("/")
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == path]
    (volume,) = [one for one in document["spec"]["template"]["spec"]["volumes"] if one["name"] == mount["name"]]
    made = f"create secret generic {volume['secret']['secretName']} --from-file={key}\n"
    assert made in (folder / "kustomization.yaml").read_text()
    assert mount["readOnly"]


@pytest.mark.parametrize("document", WORKLOADS, ids=_name)
def test_pods_are_locked_down_and_stop_in_time(document: dict[str, Any]) -> None:
    """As under compose: no root, writes only to volumes, and more time to stop than the service needs."""
    pod = document["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["resources"]["limits"]["memory"]
    if document["metadata"]["name"].endswith("-sender"):
        (grace,) = re.findall(r"^KURIR_GRACE=(.*)$", (FOLDER / "settings.env").read_text(), re.MULTILINE)
        assert pod["terminationGracePeriodSeconds"] > parse_seconds(grace)


def test_no_secret_is_among_the_files() -> None:
    """Only the cluster's operator provides them."""
    assert not [document for document in DOCUMENTS if document["kind"] == "Secret"]
    assert "secretGenerator" not in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
