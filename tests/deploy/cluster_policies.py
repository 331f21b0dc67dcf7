"""What holds between the objects of a folder. A policy yields what breaks it, in a sentence."""

from collections.abc import Iterator

import yaml

from tests.deploy.manifests import KUBERNETES, Manifests, Object

OUTWARD_PORTS = {53, 4318, 5432}
"""DNS, traces over OTLP, and the ledger's PostgreSQL."""
WORKERS_PORTS = {53, 5432, 5000}
"""DNS, the ledger's PostgreSQL, and the MLflow registry."""
INSIDE = (
    *("/metrics", "/metrics/prometheus", "/livez", "/healthz", "/readyz", "/schema.json"),
    *("/logs", "/logs/recent", "/logs/stats", "/retrain/jobs"),
)
"""Paths that are nobody's outside the cluster."""
RESTRICTED = "pod-security.kubernetes.io/enforce"


def everything_is_in_one_restricted_namespace(manifests: Manifests) -> Iterator[str]:
    (namespace,) = manifests.of("Namespace")
    if namespace["metadata"]["labels"].get(RESTRICTED) != "restricted":
        yield "the namespace takes any pod"
    for one in manifests.objects:
        if one is not namespace and one["metadata"].get("namespace") != namespace["metadata"]["name"]:
            yield f"{one['kind']} {one['metadata']['name']} is in another namespace"


def selectors_choose_one_version(manifests: Manifests) -> Iterator[str]:
    """A Deployment, its Service and its budget mean the same pods, and a canary's are not counted with the others."""
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        for one in manifests.deployments() if kind == "Deployment" else manifests.of(kind):
            selector = one["spec"]["selector"]
            chosen = manifests.selected(selector if kind == "Service" else selector["matchLabels"])
            if len(chosen) != 1:
                yield f"{kind} {one['metadata']['name']} chooses the pods of {len(chosen)} Deployments"


def services_reach_ports(manifests: Manifests) -> Iterator[str]:
    for service in manifests.of("Service"):
        for pod in manifests.selected(service["spec"]["selector"]):
            for port in service["spec"]["ports"]:
                if pod.ports.get(port["targetPort"]) != port["port"]:
                    yield f"{service['metadata']['name']}:{port['port']} is {port['targetPort']}, which is another port"
                if port["name"] == "grpc" and port.get("appProtocol") != "kubernetes.io/h2c":
                    yield f"{service['metadata']['name']}:{port['port']} does not say that it is HTTP/2"


def grpc_clients_find_every_pod(manifests: Manifests) -> Iterator[str]:
    for pod in manifests.pods():
        headless = [one for one in manifests.of("Service") if one["spec"].get("clusterIP") == "None"]
        if manifests.deployments() and not any(
            one["spec"]["selector"].items() <= pod.labels.items() and one["spec"]["ports"][0]["name"] == "grpc"
            for one in headless
        ):
            yield f"no headless Service lists the pods of {pod.name}"


def several_pods_survive_a_drain(manifests: Manifests) -> Iterator[str]:
    """Where there are several pods there is a budget, and it lets one go: a node that cannot be drained is no help."""
    for deployment in manifests.deployments():
        fewest = fewest_pods(manifests, deployment)
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        budgets = [
            one
            for one in manifests.of("PodDisruptionBudget")
            if one["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        if fewest > 1 and len(budgets) != 1:
            yield f"{deployment['metadata']['name']} has {len(budgets)} disruption budgets"
        for budget in budgets:
            if budget["spec"].get("maxUnavailable", fewest - budget["spec"].get("minAvailable", 0)) < 1:
                yield f"{budget['metadata']['name']} never lets a pod go"


def fewest_pods(manifests: Manifests, deployment: Object) -> int:
    scaler = scaler_of(manifests, deployment)
    return int(scaler["spec"]["minReplicas"] if scaler else deployment["spec"].get("replicas", 1))


def scaler_of(manifests: Manifests, deployment: Object) -> Object | None:
    name = deployment["metadata"]["name"]
    return next(
        (one for one in manifests.of("HorizontalPodAutoscaler") if one["spec"]["scaleTargetRef"]["name"] == name), None
    )


def autoscalers_have_a_target(manifests: Manifests) -> Iterator[str]:
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        name, spec = scaler["metadata"]["name"], scaler["spec"]
        target = manifests.named(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        if target is None:
            yield f"{name} scales what is not there"
        elif "replicas" in target["spec"]:
            yield f"every apply takes back what {name} did"
        if not 2 <= spec["minReplicas"] < spec["maxReplicas"]:
            yield f"{name} has no room between its bounds, or lets one pod be all"
        if spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] < 300:
            yield f"{name} takes pods away that the next minute needs"


def autoscalers_know_cpu_and_wait(manifests: Manifests) -> Iterator[str]:
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yml").read_text())
    offered = {rule["name"]["as"] for rule in adapter["rules"]}
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        metrics = scaler["spec"]["metrics"]
        if [one["resource"]["name"] for one in metrics if one["type"] == "Resource"] != ["cpu"]:
            yield f"{scaler['metadata']['name']} does not follow the CPU"
        asked = {one["pods"]["metric"]["name"] for one in metrics if one["type"] == "Pods"}
        if not asked or not asked <= offered:
            yield f"{scaler['metadata']['name']} asks for {asked or 'no wait'}; the adapter's rules offer {offered}"


def pods_are_spread(manifests: Manifests) -> Iterator[str]:
    for deployment in manifests.deployments():
        template = deployment["spec"]["template"]
        spread = {one["topologyKey"]: one for one in template["spec"].get("topologySpreadConstraints", ())}
        if spread.keys() != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"{deployment['metadata']['name']} is spread over {sorted(spread)}"
            continue
        for one in spread.values():
            if one["labelSelector"]["matchLabels"] != deployment["spec"]["selector"]["matchLabels"]:
                yield f"{deployment['metadata']['name']} counts pods that are not its own"
        zone = spread["topology.kubernetes.io/zone"]["whenUnsatisfiable"]
        if scaler_of(manifests, deployment) and zone != "DoNotSchedule":
            yield f"a zone that is lost may take all of {deployment['metadata']['name']}"


def network_is_closed(manifests: Manifests) -> Iterator[str]:
    policies = [one["spec"] for one in manifests.of("NetworkPolicy")]
    everything = [one for one in policies if one["podSelector"] == {} and not {"ingress", "egress"} & one.keys()]
    if not any(set(one["policyTypes"]) == {"Ingress", "Egress"} for one in everything):
        yield "nothing denies what nobody allowed"
    for rule in (rule for one in policies for rule in one.get("ingress", [])):
        if not rule.get("from") or any(peer.get("namespaceSelector") == {} for peer in rule["from"]):
            yield "everybody may come in"
    for rule in (rule for one in policies for rule in one.get("egress", [])):
        if (
            not rule.get("to")
            or not {port["port"] for port in rule.get("ports", [{"port": None}])} <= OUTWARD_PORTS | WORKERS_PORTS
        ):
            yield "it may go anywhere"


def network_is_open_for_those_who_need_it(manifests: Manifests) -> Iterator[str]:
    for pod in manifests.pods():
        chosen = [
            one["spec"]
            for one in manifests.of("NetworkPolicy")
            if one["spec"]["podSelector"].get("matchLabels", {"": ""}).items() <= pod.labels.items()
        ]
        doors: dict[str, set[int]] = {}
        for rule in (rule for one in chosen for rule in one.get("ingress", [])):
            for peer in rule["from"]:
                name = peer["namespaceSelector"]["matchLabels"].get("kubernetes.io/metadata.name", "client")
                doors.setdefault(name, set()).update(port["port"] for port in rule["ports"])
        both = set(pod.ports.values())
        if doors != {"gateway": both, "client": both, "monitoring": {8000}}:
            yield f"{pod.name} is reached by {doors}"
        ways = {port["port"] for one in chosen for rule in one.get("egress", []) for port in rule["ports"]}
        if ways != OUTWARD_PORTS:
            yield f"{pod.name} reaches ports {sorted(ways)}"


def routes_lead_somewhere(manifests: Manifests) -> Iterator[str]:
    hosts: list[str] = []
    for route in [*manifests.of("HTTPRoute"), *manifests.of("GRPCRoute")]:
        hosts += route["spec"]["hostnames"]
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = manifests.named("Service", backend["name"])
                if not service or backend["port"] not in {port["port"] for port in service["spec"]["ports"]}:
                    yield f"{route['kind']} leads to {backend['name']}:{backend['port']}, which is not there"
            if sum(backend["weight"] for backend in rule["backendRefs"]) != 100:
                yield f"the weights of the {route['kind']} are no percentages"
    if len(hosts) != len(set(hosts)):
        yield "two kinds of routes have one host: a gateway refuses the later"


def routes_show_what_is_for_users(manifests: Manifests) -> Iterator[str]:
    for rule in (rule for route in manifests.of("HTTPRoute") for rule in route["spec"]["rules"]):
        for match in rule["matches"]:
            path, prefix = match["path"]["value"], match["path"]["type"] == "PathPrefix"
            if any(covers(path, inner) if prefix else inner == path for inner in INSIDE):
                yield f"{path} shows what is not for users"


def covers(prefix: str, path: str) -> bool:
    """Whether a PathPrefix of the Gateway API, which goes by elements, takes a path."""
    return path == prefix or path.startswith(f"{prefix.rstrip('/')}/")


CLUSTER_POLICIES = (
    everything_is_in_one_restricted_namespace,
    selectors_choose_one_version,
    services_reach_ports,
    grpc_clients_find_every_pod,
    several_pods_survive_a_drain,
    autoscalers_have_a_target,
    autoscalers_know_cpu_and_wait,
    pods_are_spread,
    network_is_closed,
    network_is_open_for_those_who_need_it,
    routes_lead_somewhere,
    routes_show_what_is_for_users,
)
