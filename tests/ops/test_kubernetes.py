"""The Kubernetes manifests, as kustomize renders them: of published form, and with parts that belong together."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path, PurePosixPath

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from gateway.config.load import parse_config
from gateway.config.place import place_of
from gateway.host.serve import RECORDER_STOP_S, STOP_SLACK_S

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFESTS = ROOT / "ops/deploy/kubernetes"
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
FORMS = ROOT / "tests/vectors/kubernetes"
VERSION = "1.34"
SIDECARS_SINCE = "1.30"  # init containers that keep running, and sleep as a lifecycle handler
SIDES = ("ingress", "egress")
CONFIG = Path("/etc/stockade/stockade.yaml")
GATEWAY = {"app.kubernetes.io/name": "stockade", "app.kubernetes.io/component": "gateway"}
BROUGHT = {"stockade-policy", "stockade-trust", "stockade-tls", "stockade-secrets", "stockade-log-keys"}
BROUGHT_FOR = {"in-process": set(), "ray": {"stockade-redis", "stockade-ray-token"}}


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return request.param


def render(overlay):
    kustomize = shutil.which("kustomize")
    if kustomize is None:
        pytest.skip("kustomize is not installed (Debian: kustomize)")
    command = [kustomize, "build", str(MANIFESTS / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def rendered():
    return {overlay: render(overlay) for overlay in OVERLAYS}


@pytest.fixture
def manifests(rendered, overlay):
    return rendered[overlay]


def of_kind(manifests, kind):
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests, kind, name=None):
    (found,) = [each for each in of_kind(manifests, kind) if name in (None, each["metadata"]["name"])]
    return found


@pytest.fixture
def host(manifests):
    return one(manifests, "StatefulSet", "stockade")


@pytest.fixture
def pod(host):
    return host["spec"]["template"]


@pytest.fixture
def recorder(pod):
    return named(pod["spec"]["initContainers"], "recorder")


@pytest.fixture
def gateway(pod):
    return named(pod["spec"]["containers"], "gateway")


@pytest.fixture
def configs(manifests):
    (found,) = [
        each for each in of_kind(manifests, "ConfigMap") if each["metadata"]["name"].startswith("stockade-config")
    ]
    return {name.removesuffix(".yaml"): parse_config(text.encode(), CONFIG) for name, text in found["data"].items()}


def named(items, name):
    (found,) = [item for item in items if item["name"] == name]
    return found


def pod_templates(manifests):
    """Every pod that will run, by who makes it."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "RayService":
            cluster = spec["rayClusterConfig"]
            for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
                yield f"RayService/{group.get('groupName', 'head')}", group["template"]
        elif "template" in spec:
            yield f"{manifest['kind']}/{manifest['metadata']['name']}", spec["template"]


def containers(template):
    return chain(template["spec"].get("initContainers", ()), template["spec"]["containers"])


def matches(selector, labels):
    assert set(selector) <= {"matchLabels"}, "the tests know no expressions"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


# Form


@pytest.mark.parametrize("version", [SIDECARS_SINCE, VERSION])
def test_every_manifest_of_kubernetes_has_its_published_form(manifests, version):
    known = [each for each in manifests if not (FORMS / f"{each['kind'].lower()}.schema.json").exists()]
    assert len(known) > 10
    for manifest in known:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_every_manifest_of_an_operator_has_the_form_we_wrote_down(manifests, overlay):
    kinds = set()
    for manifest in manifests:
        form = FORMS / f"{manifest['kind'].lower()}.schema.json"
        if form.exists():
            kinds.add(manifest["kind"])
            Draft202012Validator(json.loads(form.read_text())).validate(manifest)
    assert kinds == {"ServiceMonitor", "PrometheusRule"} | ({"RayService", "PodMonitor"} if overlay == "ray" else set())


def closed(form):
    """A CRD's schema with every object closed, as a server that warns of unknown fields takes it."""
    if isinstance(form, dict):
        form = {key: closed(value) for key, value in form.items()}
        if "properties" in form and not form.get("x-kubernetes-preserve-unknown-fields"):
            form.setdefault("additionalProperties", False)
    elif isinstance(form, list):
        form = [closed(each) for each in form]
    return form


@pytest.fixture(scope="module")
def published():
    """The operators' own schemas, by kind and version, where somebody has brought them."""
    if "STOCKADE_CRDS" not in os.environ:
        pytest.skip("STOCKADE_CRDS names no directory of CustomResourceDefinitions")
    definitions = [yaml.safe_load(path.read_text()) for path in Path(os.environ["STOCKADE_CRDS"]).glob("*.yaml")]
    return {
        (each["spec"]["names"]["kind"], f"{each['spec']['group']}/{version['name']}"): version["schema"][
            "openAPIV3Schema"
        ]
        for each in definitions
        for version in each["spec"]["versions"]
    }


def disagreements(ours, theirs, at=""):
    """Where a form that we wrote down allows what the published one does not, or does not ask for what it asks for."""
    if theirs.get("x-kubernetes-int-or-string") or theirs.get("x-kubernetes-preserve-unknown-fields"):
        return
    if ours.get("type", theirs["type"]) != theirs["type"]:
        yield f"{at}: {ours['type']}, published: {theirs['type']}"
    allowed = ours.get("enum", [ours["const"]] if "const" in ours else [])
    if not set(allowed) <= set(theirs.get("enum", allowed)):
        yield f"{at}: {allowed}, published: {theirs['enum']}"
    if "properties" in ours:
        yield from disagreements_of_properties(ours, theirs, at)
    for inner in ("items", "additionalProperties"):
        if isinstance(ours.get(inner), dict):
            yield from disagreements(ours[inner], theirs[inner], f"{at}/{inner}")


def disagreements_of_properties(ours, theirs, at):
    for name in sorted(set(theirs.get("required", ())) - set(ours.get("required", ()))):
        yield f"{at}/{name}: not asked for"
    for name, form in ours["properties"].items():
        if name not in theirs.get("properties", {}):
            yield f"{at}/{name}: not in the published form"
        elif (at, name) != ("", "metadata"):  # which is Kubernetes's own, and checked there
            yield from disagreements(form, theirs["properties"][name], f"{at}/{name}")


@pytest.mark.parametrize("file", sorted(FORMS.glob("*.schema.json")), ids=lambda file: file.name.partition(".")[0])
def test_what_we_wrote_down_agrees_with_the_published_form(published, file):
    ours = json.loads(file.read_text())
    kind, version = (ours["properties"][name]["const"] for name in ("kind", "apiVersion"))
    assert list(disagreements(ours, published[kind, version])) == []


def test_a_form_that_allows_more_than_the_published_one_is_found():
    theirs = {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "string", "enum": ["x"]}, "b": {"type": "array", "items": {"type": "string"}}},
    }
    ours = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "enum": ["x", "y"]},
            "b": {"type": "array", "items": {"type": "integer"}},
            "c": {},
        },
    }
    assert list(disagreements(ours, theirs)) == [
        "/a: not asked for",
        "/a: ['x', 'y'], published: ['x']",
        "/b/items: integer, published: string",
        "/c: not in the published form",
    ]
    assert list(disagreements(theirs, theirs)) == []


def test_every_manifest_of_an_operator_has_its_published_form(manifests, published):
    for manifest in manifests:
        if (FORMS / f"{manifest['kind'].lower()}.schema.json").exists():
            form = closed(published[manifest["kind"], manifest["apiVersion"]])
            form["properties"]["metadata"] = {"type": "object"}
            Draft202012Validator(form).validate(manifest)


def test_every_pod_of_ray_has_the_published_form_of_a_pod(manifests):
    for name, template in pod_templates(manifests):
        metadata = {"name": "pod", **template.get("metadata", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes_validate.validate(pod, VERSION, strict=True)
        assert name


def test_a_typing_error_is_no_published_form(manifests):
    wrong = json.loads(json.dumps(one(manifests, "PodDisruptionBudget")))
    wrong["spec"]["maxUnavailble"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_names_are_unique_and_all_in_one_namespace(manifests):
    found = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(found) == len(set(found))
    assert {each["metadata"].get("namespace") for each in manifests if each["kind"] != "Namespace"} == {"stockade"}


# What is generated


def test_what_is_generated_is_up_to_date():
    script = ROOT / "scripts/generate_kubernetes.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_rules_are_those_of_prometheus(manifests):
    files = sorted((ROOT / "ops/prometheus/rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert groups
    assert one(manifests, "PrometheusRule")["spec"]["groups"] == groups


# Hosts and their logs


def test_every_host_has_a_configuration_and_a_log_of_its_own(host, configs):
    hosts = {f"{host['metadata']['name']}-{number}" for number in range(host["spec"]["replicas"])}
    assert set(configs) == hosts
    assert len({config.audit.origin for config in configs.values()}) == len(hosts)
    assert len({config.audit.vkey for config in configs.values()}) == len(hosts)
    for name, config in configs.items():
        assert config.audit.origin.endswith(f"/{name}")
        assert config.audit.vkey.name == f"{name}.vkey"
        assert config.audit.recorder == "external"


def test_every_host_has_volumes_of_its_own_that_stay(host):
    claims = {claim["metadata"]["name"]: claim["spec"]["accessModes"] for claim in host["spec"]["volumeClaimTemplates"]}
    assert claims == {name: ["ReadWriteOnce"] for name in ("log", "signer", "payload-keys")}
    assert host["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def mount_of(container, path):
    """The mount that a path lies in: the deepest one; None when there is none."""
    inside = [each for each in container["volumeMounts"] if PurePosixPath(path).is_relative_to(each["mountPath"])]
    return max(inside, key=lambda each: len(each["mountPath"]), default=None)


def writable(container, path):
    mount = mount_of(container, path)
    return mount is not None and not mount.get("readOnly", False)


def test_the_gateway_sees_what_it_needs_and_not_the_key_of_the_log(configs, gateway):
    for config in configs.values():
        for path in (config.tls.certificate, config.tls.key, config.tls.client_ca, config.audit.vkey, CONFIG):
            assert mount_of(gateway, path)["readOnly"] is True
        for path in (config.policy.file, config.policy.public_key, config.policy.pepper, config.audit.master_key):
            assert mount_of(gateway, path)["readOnly"] is True
        if config.shared_limits is not None:
            for path in (config.shared_limits.ca, config.shared_limits.password_file):
                assert mount_of(gateway, path)["readOnly"] is True
        assert all(mount_of(gateway, path)["readOnly"] for path in config.bundles.trusted_keys)
        assert writable(gateway, config.state_dir)
        assert writable(gateway, config.audit.key_database)
        assert mount_of(gateway, config.audit.directory)["readOnly"] is True
        assert mount_of(gateway, config.audit.signing_key) is None
        assert mount_of(gateway, config.audit.state_directory) is None


def test_the_recorder_sees_its_key_and_log_and_no_other_secret(configs, recorder):
    for config in configs.values():
        assert mount_of(recorder, config.audit.signing_key)["name"] == "log-keys"
        assert mount_of(recorder, config.audit.signing_key)["readOnly"] is True
        assert writable(recorder, config.audit.signing_key.with_suffix(".signed"))
        assert writable(recorder, config.state_dir)
        log, state = (mount_of(recorder, each) for each in (config.audit.directory, config.audit.state_directory))
        assert log == state, "tiles are renamed from one into the other: that needs one mount"
        assert writable(recorder, config.audit.directory)
        for path in (config.tls.key, config.policy.pepper, config.audit.master_key, config.audit.key_database):
            assert mount_of(recorder, path) is None


def test_the_key_of_a_log_is_in_the_recorder_of_its_host_alone(manifests, recorder):
    holders = [
        (name, container["name"], mount)
        for name, template in pod_templates(manifests)
        for container in containers(template)
        for mount in container.get("volumeMounts", ())
        if "stockade-log-keys"
        in json.dumps(
            named(template["spec"]["volumes"], mount["name"])
            if mount["name"] in {each["name"] for each in template["spec"]["volumes"]}
            else {}
        )
    ]
    assert [(name, container) for name, container, _ in holders] == [("StatefulSet/stockade", "recorder")]
    assert holders[0][2]["subPathExpr"] == "$(POD_NAME).key"
    assert named(recorder["env"], "POD_NAME")["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_secrets_are_read_by_the_group_at_most(pod):
    for volume in pod["spec"]["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440


def test_the_recorder_is_another_user_with_the_same_group(pod, recorder, gateway):
    shared = pod["spec"]["securityContext"]
    assert shared["fsGroup"] == shared["runAsGroup"] != 0
    users = {
        shared["runAsUser"] if "runAsUser" not in each["securityContext"] else each["securityContext"]["runAsUser"]
        for each in (recorder, gateway)
    }
    assert len(users) == 2
    assert "runAsGroup" not in recorder["securityContext"]
    assert pod["spec"].get("shareProcessNamespace", False) is False


def test_the_recorder_is_there_before_the_gateway_and_after_it(configs, recorder):
    assert recorder["restartPolicy"] == "Always"
    command = recorder["startupProbe"]["exec"]["command"]
    assert {str(place_of(config).socket) for config in configs.values()} == {command[-1]}


def test_a_host_may_take_as_long_to_stop_as_it_needs(pod, configs, gateway):
    sleep_s = gateway["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = max(config.transport.drain_timeout_ms for config in configs.values()) / 1000
    needed_s = sleep_s + drain_s + STOP_SLACK_S + RECORDER_STOP_S
    assert pod["spec"]["terminationGracePeriodSeconds"] > needed_s


# Ports and selectors


def port_of(address):
    return int(address.rpartition(":")[2])


def test_the_ports_are_those_of_the_configuration(configs, gateway):
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    for config in configs.values():
        listen = config.listen
        wanted = {"data": listen.data, "data-mtls": listen.data_mtls, "admin": listen.admin, "metrics": listen.metrics}
        assert ports == {name: port_of(address) for name, address in wanted.items()}


def test_probes_ask_the_metrics_port(gateway):
    assert {gateway[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "metrics"
    }
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_every_service_finds_pods_and_ports(manifests, pod, gateway):
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    services = of_kind(manifests, "Service")
    assert {service["metadata"]["name"] for service in services} == {
        "stockade",
        "stockade-hosts",
        "stockade-admin",
        "stockade-metrics",
    }
    for service in services:
        assert matches({"matchLabels": service["spec"]["selector"]}, pod["metadata"]["labels"])
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_the_data_service_shows_neither_admin_nor_metrics(manifests):
    assert {port["targetPort"] for port in one(manifests, "Service", "stockade")["spec"]["ports"]} == {
        "data",
        "data-mtls",
    }


def test_the_stateful_set_names_a_headless_service(manifests, host):
    assert one(manifests, "Service", host["spec"]["serviceName"])["spec"]["clusterIP"] == "None"


def test_prometheus_finds_one_service_and_its_port(manifests):
    monitor = one(manifests, "ServiceMonitor")["spec"]
    found = [each for each in of_kind(manifests, "Service") if matches(monitor["selector"], each["metadata"]["labels"])]
    assert [service["metadata"]["name"] for service in found] == ["stockade-metrics"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in found[0]["spec"]["ports"]}
    assert {"targetLabel": "job", "replacement": "stockade"} in endpoint["relabelings"]


def test_prometheus_finds_every_node_of_ray_and_may_ask_for_nothing_but_its_metrics(manifests, overlay):
    monitors = of_kind(manifests, "PodMonitor")
    assert bool(monitors) is (overlay == "ray")
    for monitor in (each["spec"] for each in monitors):
        nodes = [template for maker, template in pod_templates(manifests) if maker.startswith("RayService/")]
        assert all(matches(monitor["selector"], node["metadata"]["labels"]) for node in nodes)
        (endpoint,) = monitor["podMetricsEndpoints"]
        ports = [
            {port["name"]: port["containerPort"] for port in each["ports"]}
            for node in nodes
            for each in containers(node)
        ]
        assert {each[endpoint["port"]] for each in ports} == {8080}
        assert {"targetLabel": "job", "replacement": "ray"} in endpoint["relabelings"]
        policy = one(manifests, "NetworkPolicy", "ray-metrics")["spec"]
        assert policy["podSelector"] == monitor["selector"]
        assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": endpoint["port"]}]


def test_the_disruption_budget_keeps_all_hosts_but_one(manifests, host, pod):
    budget = one(manifests, "PodDisruptionBudget", "stockade-gateway")["spec"]
    assert budget["maxUnavailable"] == 1 < host["spec"]["replicas"]
    assert matches(budget["selector"], pod["metadata"]["labels"])


def test_hosts_are_spread_over_machines_and_zones(pod):
    spread = {each["topologyKey"]: each for each in pod["spec"]["topologySpreadConstraints"]}
    assert spread["kubernetes.io/hostname"]["whenUnsatisfiable"] == "DoNotSchedule"
    assert set(spread) == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert all(matches(each["labelSelector"], pod["metadata"]["labels"]) for each in spread.values())


# Who reaches whom


def test_nothing_is_allowed_that_no_policy_allows(manifests):
    deny = one(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def rules(manifests, direction, labels):
    """Rules of all policies that hold for a pod with these labels."""
    return [
        rule
        for policy in of_kind(manifests, "NetworkPolicy")
        if matches(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get(direction, ())
    ]


def test_no_rule_is_open_to_everybody(manifests):
    for _, template in pod_templates(manifests):
        labels = template["metadata"].get("labels", {})
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in rules(manifests, direction, labels):
                assert rule[side], rule
                assert rule["ports"], rule
                assert all(peer and all(peer.values()) for peer in rule[side]), "an empty selector is everybody"


RAY_NODES = [
    {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "stockade", "app.kubernetes.io/component": part}}}
    for part in ("ray", "gateway")
]
KUBE_DNS = 53


def test_each_port_of_a_gateway_has_its_own_callers(manifests, pod, overlay):
    callers = {
        port["port"]: rule["from"]
        for rule in rules(manifests, "ingress", pod["metadata"]["labels"])
        for port in rule["ports"]
    }
    assert {port for port in callers if isinstance(port, str)} == {"data", "data-mtls", "metrics", "admin"}
    assert callers["data"] == callers["data-mtls"]
    assert callers["admin"] == [{"podSelector": {"matchLabels": {"stockade.local/operator": "yes"}}}]
    (prometheus,) = callers["metrics"]
    assert prometheus["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    assert prometheus["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    of_ray = [peers for port, peers in callers.items() if isinstance(port, int)]
    assert bool(of_ray) is (overlay == "ray")
    assert all(peers == RAY_NODES for peers in of_ray)


def covers(rules, port):
    return any(each["port"] <= port <= each.get("endPort", each["port"]) for rule in rules for each in rule["ports"])


def test_a_gateway_reaches_names_and_what_its_components_add(manifests, pod, configs):
    out = rules(manifests, "egress", pod["metadata"]["labels"])
    config = configs["stockade-0"]
    assert covers(out, KUBE_DNS)
    assert covers(out, 6379) is (config.shared_limits is not None) is (config.engine.ray is not None)
    assert not covers(out, 443)


# Ray


def test_a_gateway_finds_the_head_of_the_cluster(manifests, pod, configs):
    for service in of_kind(manifests, "RayService"):
        head = f"{service['metadata']['name']}-head-svc:6379"  # how KubeRay names it
        assert {config.engine.ray.address for config in configs.values()} == {head}
        assert f"--address={head}" in named(pod["spec"]["initContainers"], "ray-node")["command"]


def test_ray_gives_replicas_room_for_as_many_as_it_may_start(manifests, configs):
    for service in of_kind(manifests, "RayService"):
        (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        cpus = int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
        replicas = configs["stockade-0"].engine.ray.replicas
        assert group["maxReplicas"] * cpus >= replicas.max * replicas.cpus
        assert service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_ports_of_ray_are_fixed_and_allowed(manifests, pod):
    for service in of_kind(manifests, "RayService"):
        cluster = service["spec"]["rayClusterConfig"]
        command = named(pod["spec"]["initContainers"], "ray-node")["command"]
        started = dict(option.removeprefix("--").split("=") for option in command if "port=" in option)
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        ways = [rules(manifests, side, group["template"]["metadata"]["labels"]) for group in groups for side in SIDES]
        ways += [rules(manifests, side, pod["metadata"]["labels"]) for side in SIDES]
        for way in (group["rayStartParams"] for group in groups):
            assert {name: port for name, port in way.items() if name.endswith("-port")} == started
        for name, port in started.items():
            if name == "metrics-export-port":
                continue
            for way in ways:
                assert covers(
                    [{"ports": [each for each in rule["ports"] if isinstance(each["port"], int)]} for rule in way],
                    int(port),
                ), name


def test_replicas_see_no_secret(manifests):
    for name, template in pod_templates(manifests):
        if name.startswith("RayService"):
            assert [volume for volume in template["spec"]["volumes"] if "secret" in volume] == []
            assert "secretKeyRef" not in json.dumps(template["spec"]["containers"])


def test_no_container_has_a_secret_in_its_environment(manifests):
    for name, template in pod_templates(manifests):
        for container in containers(template):
            assert "secretKeyRef" not in json.dumps(container.get("env", ())), name
            assert "secretRef" not in json.dumps(container.get("envFrom", ())), name


def test_ray_finds_its_token_in_a_file(pod, overlay):
    if overlay != "ray":
        return
    secrets = {volume["name"]: volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume}
    for container in (named(pod["spec"]["initContainers"], "ray-node"), named(pod["spec"]["containers"], "gateway")):
        (path,) = [each["value"] for each in container["env"] if each["name"] == "RAY_AUTH_TOKEN_PATH"]
        (mount,) = [mount for mount in container["volumeMounts"] if path == f"{mount['mountPath']}/auth_token"]
        assert secrets[mount["name"]]["secretName"] == "stockade-ray-token"


def test_the_ray_node_is_another_user_than_the_gateway_and_meets_it_by_its_sockets_alone(manifests, pod, gateway):
    nodes = [each for each in pod["spec"]["initContainers"] if each["name"] == "ray-node"]
    assert len(nodes) == len(of_kind(manifests, "RayService"))
    for node in nodes:
        users = {pod["spec"]["securityContext"]["runAsUser"], node["securityContext"]["runAsUser"]}
        users |= {each["securityContext"].get("runAsUser") for each in pod["spec"]["initContainers"]}
        assert len(users) == 3
        assert node["command"][:3] == ["sh", "-c", 'umask 007; exec "$@"'], "the group may use its sockets"
        both = {mount["name"] for mount in node["volumeMounts"]} & {mount["name"] for mount in gateway["volumeMounts"]}
        assert both == {"ray", "ray-token"}
        assert {mount_of(each, "/tmp/ray/session/sockets/raylet")["name"] for each in (node, gateway)} == {"ray"}


# What may run


def test_every_pod_is_restricted(manifests):
    """The rules of the Pod Security Standard `restricted`, and that nothing writes to its image."""
    for name, template in pod_templates(manifests):
        spec = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        kinds = {kind for volume in spec.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected"}, name
        assert spec["automountServiceAccountToken"] is False, name
        shared = spec["securityContext"]
        assert shared["runAsNonRoot"] is True, name
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(template):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert own.get("runAsUser", shared["runAsUser"]) != 0, name
            assert not {"privileged", "procMount"} & set(own), name
            assert not any("hostPort" in port for port in container.get("ports", ())), name


def test_the_namespace_admits_nothing_less(manifests):
    labels = one(manifests, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_container_says_what_it_needs_and_which_build_it_is(manifests):
    for name, template in pod_templates(manifests):
        for container in containers(template):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
            assert re.fullmatch(r"[a-z0-9./-]+:[0-9][A-Za-z0-9._-]*", container["image"]), container["image"]


def test_what_is_referred_to_is_rendered_or_documented(manifests, pod, overlay):
    made = {each["metadata"]["name"] for each in of_kind(manifests, "ConfigMap")}
    used = {
        volume.get("configMap", {}).get("name") or volume.get("secret", {}).get("secretName")
        for volume in pod["spec"]["volumes"]
    } - {None}
    brought = BROUGHT | BROUGHT_FOR[overlay]
    assert used - made == brought
    text = (ROOT / "docs/how-to/deploy-kubernetes.md").read_text(encoding="utf-8")
    assert [name for name in sorted(brought) if f"`{name}`" not in text] == []


def test_volumes_and_mounts_agree(manifests):
    for name, template in pod_templates(manifests):
        claims = next(
            (
                each["spec"].get("volumeClaimTemplates", ())
                for each in manifests
                if f"{each['kind']}/{each['metadata']['name']}" == name
            ),
            (),
        )
        there = {volume["name"] for volume in template["spec"].get("volumes", ())}
        there |= {claim["metadata"]["name"] for claim in claims}
        used = {mount["name"] for each in containers(template) for mount in each.get("volumeMounts", ())}
        assert used == there, name
