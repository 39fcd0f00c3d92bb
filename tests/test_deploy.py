"""What deploy/ gives a cluster, rendered by kustomize itself and held against Kubernetes' schemas and our own code.

After a change of the alert rules: PYTHONPATH=. python tests/test_deploy.py
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from prometheus_servers import program

from pipelines.compiling import OURS, ROOM_LABEL, TALKING
from pipelines.profiles import KIND_OF, SETTINGS, Cluster

DEPLOY = Path(__file__).parent.parent / "deploy"
RULE = DEPLOY / "monitoring" / "prometheus-rule.yaml"
OVERLAYS = ("in-cluster", pytest.param("external", marks=pytest.mark.thorough))
ROOMS = {room.replace("_", "-") for room in KIND_OF}
NOT_SET = re.compile(r"[a-z-]+\.not-set\.invalid/[a-z-]+@sha256:0{64}")
OPERATOR = "monitoring.coreos.com/v1"
NOWHERE = "192.0.2."  # addresses that lead nowhere, as RFC 5737 has it


@pytest.fixture(scope="module", params=OVERLAYS)
def documents(request, tmp_path_factory):
    """All that an overlay renders."""
    return render(DEPLOY, f"overlays/{request.param}", tmp_path_factory.mktemp("deploy"))


def render(folder, overlay, scratch):
    """What `kubectl kustomize` makes of an overlay. The oldest that Debian has knows folders by their earlier name only."""
    kubectl = program("kubectl", "kubernetes-client")
    version = subprocess.run([kubectl, "version", "--client", "--output=json"], capture_output=True, text=True, check=True)
    if "kustomizeVersion" not in json.loads(version.stdout):
        shutil.copytree(folder, scratch / "deploy")
        folder = scratch / "deploy"
        for file in folder.rglob("kustomization.yaml"):
            found = yaml.safe_load(file.read_text())
            found["bases"] = [one for one in found["resources"] if not one.endswith(".yaml")]
            found["resources"] = [one for one in found["resources"] if one.endswith(".yaml")]
            file.write_text(yaml.safe_dump(found))
    done = subprocess.run([kubectl, "kustomize", folder / overlay], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kustomize has nothing to complain of"
    return list(yaml.safe_load_all(done.stdout))


def of_kind(documents, *kinds):
    return [one for one in documents if one["kind"] in kinds]


def templates(documents):
    """Pod templates by component."""
    return {one["spec"]["template"]["metadata"]["labels"][ROOM_LABEL]: one["spec"]["template"]
            for one in of_kind(documents, "Deployment", "StatefulSet")}


def matches(selector, labels):
    """Whether a label selector selects."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))


@pytest.mark.thorough
def test_every_document_is_what_kubernetes_knows(documents):
    import kubernetes_validate

    for one in documents:
        if one["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(one, "1.32", strict=True)


def test_what_is_for_prometheus_operator_is_what_it_knows(documents):
    schemas = json.loads((Path(__file__).parent / "prometheus_operator_types.json").read_text())["schemas"]
    found = [one for one in documents if one["apiVersion"] == OPERATOR]
    assert {one["kind"] for one in found} == schemas.keys()
    for one in found:
        jsonschema.validate(one, schemas[one["kind"]])
    monitor, = (one["spec"] for one in found if one["metadata"]["name"] == "expunge-pushgateway")
    for spoiled in ({"endpoint": []}, {"endpoints": [{"port": 9091}]}, {"endpoints": [{"honourLabels": True}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"apiVersion": OPERATOR, "kind": "ServiceMonitor", "spec": {**monitor, **spoiled}},
                                schemas["ServiceMonitor"])


def test_every_pod_meets_what_restricted_asks_for_and_has_no_token_of_the_cluster(documents):
    found = templates(documents)
    assert found.keys() - {"postgresql"} == {"mlflow", "pushgateway", "exporter", "console"}
    for template in found.values():
        pod, = [template["spec"]]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all({"emptyDir", "configMap", "persistentVolumeClaim", "secret"} & volume.keys() for volume in pod.get("volumes", ()))
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["resources"]["limits"]["memory"]


def test_nothing_secret_is_written_and_an_image_that_nobody_named_can_never_be_pulled(documents, tmp_path, request):
    assert of_kind(documents, "Secret") == []
    for template in templates(documents).values():
        container, = template["spec"]["containers"]
        assert NOT_SET.fullmatch(container["image"])
        for variable in container.get("env", ()):
            if re.search("PASS|SECRET|KEY_ID|TOKEN", variable["name"]):
                assert variable["valueFrom"].keys() == {"secretKeyRef"}, variable["name"]
    if request.node.callspec.params["documents"] != "in-cluster":
        return
    shutil.copytree(DEPLOY, tmp_path / "copy")
    file = tmp_path / "copy" / "overlays" / "in-cluster" / "kustomization.yaml"
    mine = yaml.safe_load(file.read_text())
    for image in mine["images"]:
        image |= {"newName": f"registry.example/{image['name'].split('/')[1]}", "digest": f"sha256:{'a' * 64}"}
    file.write_text(yaml.safe_dump(mine))
    (tmp_path / "scratch").mkdir()
    images = [template["spec"]["containers"][0]["image"]
              for template in templates(render(tmp_path / "copy", "overlays/in-cluster", tmp_path / "scratch")).values()]
    assert len(images) == 5
    assert all(re.fullmatch(r"registry\.example/[a-z-]+@sha256:a{64}", image) for image in images), images


def test_names_are_those_that_steps_are_compiled_with(documents):
    names = Cluster()
    settings, = (one for one in of_kind(documents, "ConfigMap") if one["metadata"]["name"] == names.settings)
    assert settings["data"].keys() == SETTINGS.keys()
    claims = {one["metadata"]["name"] for one in of_kind(documents, "PersistentVolumeClaim")}
    assert claims == {names.workspace_claim, names.request_keys_claim}
    for component in ("exporter", "console"):
        container, = templates(documents)[component]["spec"]["containers"]
        told = {one["name"]: one.get("value") for one in container["env"]}
        assert told["EXPUNGE_WORKSPACE"] == names.workspace_path
        mounts = [one["mountPath"] for one in container["volumeMounts"]]
        assert names.workspace_path in mounts
        keys = [one for one in mounts if one.startswith(names.keys_path)]
        assert keys == ([f"{names.keys_path}/people"] if component == "console" else []), "requests' keys are for steps"


def test_what_containers_are_told_to_run_is_there_to_be_run(documents):
    import typer.main

    from pipelines.cli import app

    verbs = typer.main.get_command(app).commands
    for component in ("exporter", "console"):
        program, verb, *options = templates(documents)[component]["spec"]["containers"][0]["args"]
        known = {name for parameter in verbs[verb].params for name in parameter.opts}
        assert program == "expunge"
        assert {one for one in options if one.startswith("--")} <= known


def test_services_and_monitors_find_what_they_select(documents):
    pods = templates(documents)
    for service in of_kind(documents, "Service"):
        pod, = (one for one in pods.values() if matches({"matchLabels": service["spec"]["selector"]}, one["metadata"]["labels"]))
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for monitor in of_kind(documents, "ServiceMonitor"):
        service, = (one for one in of_kind(documents, "Service") if matches(monitor["spec"]["selector"], one["metadata"]["labels"])
                    and one["metadata"]["namespace"] == monitor["metadata"]["namespace"])
        assert {one["port"] for one in monitor["spec"]["endpoints"]} <= {one["name"] for one in service["spec"]["ports"]}
    gateway, = (one for one in of_kind(documents, "ServiceMonitor") if "pushgateway" in one["metadata"]["name"])
    assert gateway["spec"]["endpoints"][0]["honorLabels"], "whose numbers they are, the steps have said"


def egress(documents, namespace, component):
    """Where a pod may go: components, namespaces and outside addresses, with the ports; None if anywhere."""
    labels = {**OURS, ROOM_LABEL: component}
    mine = [one["spec"] for one in of_kind(documents, "NetworkPolicy")
            if one["metadata"]["namespace"] == namespace and matches(one["spec"]["podSelector"], labels)
            and "Egress" in one["spec"]["policyTypes"]]
    if not mine:
        return None
    found = set()
    for rule in (rule for spec in mine for rule in spec.get("egress", ())):
        for peer in rule["to"]:
            if "ipBlock" in peer:
                assert peer["ipBlock"]["cidr"].startswith(NOWHERE)
                found.add("store" if peer["ipBlock"]["cidr"] == f"{NOWHERE}1/32" else "kubernetes")
            else:
                found.add(peer.get("podSelector", {}).get("matchLabels", {}).get(ROOM_LABEL)
                          or peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
    return found


def test_rooms_reach_what_they_talk_to_and_only_those_that_fetch_any_store(documents):
    every = {"kube-system", "kubernetes", "kubeflow", "postgresql", "pushgateway"}
    for room in KIND_OF:
        stores = {"store", "mlflow"} if room in TALKING else set()
        assert egress(documents, "expunge-runs", room.replace("_", "-")) == every | stores, room
    assert egress(documents, "expunge", "pushgateway") == set()
    assert egress(documents, "expunge", "mlflow") == {"kube-system", "postgresql", "store"}
    assert egress(documents, "expunge-runs", "console") == {"kube-system", "postgresql"}
    assert egress(documents, "expunge-runs", "exporter") == {"kube-system", "postgresql", "mlflow", "store"}


def test_every_way_out_is_a_way_in_at_the_other_end_and_names_nobody_who_is_not_there(documents):
    policies = of_kind(documents, "NetworkPolicy")
    components = templates(documents).keys() | ROOMS | {"postgresql"}
    named = set(re.findall(rf"{ROOM_LABEL}'?: '?([a-z-]+)", str([one["spec"] for one in policies])))
    named |= {value for one in re.findall(r"'values': \[(.*?)\]", str(policies)) for value in re.findall(r"[a-z-]+", one)}
    assert named <= components
    inward = {one["metadata"]["name"].removeprefix("expunge-"): str(one["spec"].get("ingress", "")) for one in policies
              if "Ingress" in one["spec"]["policyTypes"]}
    for component in components - {"postgresql"}:
        namespace = "expunge" if component in ("mlflow", "pushgateway") else "expunge-runs"
        for target in egress(documents, namespace, component) & inward.keys():
            assert f"'{component}'" in inward[target], f"{target} does not let {component} in"


def test_only_steps_may_ask_kubernetes_for_anything_and_only_for_what_is_named(documents):
    role, = of_kind(documents, "Role")
    binding, = of_kind(documents, "RoleBinding")
    assert not of_kind(documents, "ClusterRole", "ClusterRoleBinding")
    assert [one["name"] for one in binding["subjects"]] == [role["metadata"]["name"]] == ["expunge-steps"]
    for rule in role["rules"]:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert rule["resources"] == ["workflowtaskresults"] or (rule["verbs"] == ["get"] and rule["resourceNames"])


def test_kserve_needs_an_account_that_may_change_its_services_and_nothing_else(tmp_path, documents):
    import kubernetes_validate

    mine = render(DEPLOY, "kserve", tmp_path)
    for one in mine:
        kubernetes_validate.validate(one, "1.32", strict=True)
    roles = {one["metadata"]["name"]: one["rules"] for one in of_kind(mine, "Role")}
    services = {"apiGroups": ["serving.kserve.io"], "resources": ["inferenceservices"]}
    assert roles == {"expunge-deployer": [{**services, "verbs": ["get", "create", "patch", "delete"]}],
                     "expunge-viewer": [{**services, "verbs": ["get"]}]}
    for binding in of_kind(mine, "RoleBinding"):
        account, = binding["subjects"]
        assert account["name"] == binding["roleRef"]["name"]
        assert any(one["metadata"] == {"name": account["name"], "namespace": account["namespace"]}
                   for one in of_kind(mine, "ServiceAccount"))
    secrets = {one["metadata"]["name"] for one in of_kind(mine, "Secret") if "data" not in one}
    assert Cluster().deployer_secret in secrets
    assert egress(mine, "expunge-runs", "exporter") == {"kubernetes"}
    exporter = templates(documents)["exporter"]["spec"]
    account, = (one["secret"] for one in exporter["volumes"] if "secret" in one)
    assert account["secretName"] in secrets
    told = {one["name"]: one.get("value") for one in exporter["containers"][0]["env"]}
    assert told["EXPUNGE_SERVICE_ACCOUNT"] in {one["mountPath"] for one in exporter["containers"][0]["volumeMounts"]}


def prometheus_rule():
    """The alert rules as Prometheus' operator takes them."""
    rules = yaml.safe_load((DEPLOY / "monitoring" / "rules.yaml").read_text())
    made = {"apiVersion": OPERATOR, "kind": "PrometheusRule",
            "metadata": {"name": "expunge", "namespace": "expunge"}, "spec": rules}
    return f"# Made from rules.yaml by tests/test_deploy.py.\n{yaml.safe_dump(made, sort_keys=False, width=120)}"


def test_the_operator_gets_the_same_rules():
    assert RULE.read_text() == prometheus_rule(), f"if it is meant: PYTHONPATH=. python tests/{Path(__file__).name}"


if __name__ == "__main__":
    RULE.write_text(prometheus_rule())
