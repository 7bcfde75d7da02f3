"""What the cluster files and their page promise, as far as it can be checked without a cluster."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.recipe import load_recipe

ROOT = Path(__file__).parents[2]
AWS = ROOT / "ray_cluster.yaml"
KUBERAY = ROOT / "docs/kuberay.yaml"
PAGE = ROOT / "docs/cluster.md"


def aws() -> dict[str, Any]:
    return yaml.safe_load(AWS.read_text())


def rayjob() -> dict[str, Any]:
    return yaml.safe_load(KUBERAY.read_text())["spec"]


def validated(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file before it talks to the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def commands(text: str) -> list[list[str]]:
    """Every complete `omni-diffusion tokenize ...` of a text, as the shell's words after it."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"omni-diffusion tokenize (\S+\.yaml[^\n#|`]*)", joined)
    return [shlex.split(words.replace("[KEY=VALUE ...]", "")) for words in found]


def entrypoint() -> list[str]:
    (words,) = commands(rayjob()["entrypoint"])
    return words


def recipe_of(words: list[str]) -> TokenizeRecipe:
    """The recipe of a command; the overrides must be keys that it has."""
    name = Path(words[0]).name
    return load_recipe(
        ROOT / "tokenize" / name, TokenizeRecipe, [w for w in words[1:] if not w.startswith("--")]
    )


def test_ray_takes_the_aws_file() -> None:
    prepared = validated(aws())
    workers = {n: t for n, t in prepared["available_node_types"].items() if n != "head"}
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    for node_type in workers.values():
        assert node_type["min_workers"] == 0 < node_type["max_workers"], "grows from nothing"
        assert node_type["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert sum(t["max_workers"] for t in workers.values()) == prepared["max_workers"]
    head = prepared["available_node_types"]["head"]
    assert head["resources"] == {"CPU": 0} and "InstanceMarketOptions" not in head["node_config"]


@pytest.mark.parametrize(
    "place, value",
    [(("max_worker",), 3), (("available_node_types", "head", "resources"), {"CPU": "many"})],
)
def test_a_slip_in_the_file_would_be_seen(place: tuple[str, ...], value: object) -> None:
    config = aws()
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(Exception, match=rf"{place[-1]}|many"):
        validated(config)


def test_every_node_asks_for_the_token_and_has_it() -> None:
    prepared = validated(aws())
    for who in ("head", "worker"):
        starts = [c for c in prepared[f"{who}_start_ray_commands"] if "ray start" in c]
        assert len(starts) == 1 and "RAY_AUTH_MODE=token" in shlex.split(starts[0])
    (head,) = [c for c in prepared["head_start_ray_commands"] if "ray start" in c]
    assert {"--head", "--dashboard-host=127.0.0.1"} <= set(shlex.split(head))
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in shlex.split(head)
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert rayjob()["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_every_node_installs_this_package_in_the_tested_versions() -> None:
    prepared = validated(aws())
    assert prepared["file_mounts"]["~/omni-diffusion"] == "."
    for who in ("head", "worker"):
        installs = [c for c in prepared[f"{who}_setup_commands"] if "pip install" in c]
        assert all("-c ~/omni-diffusion/constraints.txt" in c for c in installs)
        assert any(c.endswith("-e ~/omni-diffusion'[s3]'") for c in installs)


def test_all_speak_of_the_ray_that_is_tested() -> None:
    version = re.escape(ray.__version__)
    for path in (AWS, KUBERAY, PAGE):
        text = path.read_text()
        named = re.findall(r"(?:rayproject/ray:|-ray|rayVersion: \"|==|Ray )(2\.\d+\.\d+)", text)
        assert named and all(re.fullmatch(version, name) for name in named), path
    pinned = re.findall(r"^ray(?:\[.*\])?==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert set(pinned) <= {ray.__version__}


@pytest.mark.parametrize("path", [AWS, KUBERAY, PAGE], ids=lambda path: path.name)
def test_there_are_no_secrets(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|secret_access_key", text, re.I)
    assert not re.search(r"ami-(?!0{17})[0-9a-f]{17}|\d{12}\.dkr\.ecr|\b[0-9a-f]{32,}\b", text)


def test_every_command_of_the_page_is_one_that_the_program_takes() -> None:
    found = commands(PAGE.read_text())
    assert len(found) >= 4
    for words in found:
        recipe_of(words)


def test_what_runs_on_a_cluster_gives_urls_and_says_how_many_workers() -> None:
    """A relative output would be lost; a cluster that has scaled to zero holds no worker."""
    (submitted,) = [w for w in commands(PAGE.read_text()) if "run.ray.workers=16" in w]
    for words in (submitted, entrypoint()):
        recipe = recipe_of(words)
        assert recipe.output.startswith("s3://") and "s3://" in str(recipe.source)
        assert recipe.run.ray.address == "auto"
        assert recipe.run.ray.workers == 16


def test_each_worker_fits_a_gpu_node_and_all_of_them_fit_the_group() -> None:
    asked = recipe_of(entrypoint()).run.ray
    aws_group = aws()["available_node_types"]["gpu_worker"]
    (kube_group,) = rayjob()["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = kube_group["template"]["spec"]["containers"]
    requests = container["resources"]["requests"]
    groups = [
        (aws_group["max_workers"], aws_group["resources"]["CPU"], aws_group["resources"]["GPU"]),
        (kube_group["maxReplicas"], int(requests["cpu"]), int(requests["nvidia.com/gpu"])),
    ]
    for nodes, cpus, gpus in groups:
        assert asked.workers <= nodes
        assert (asked.cpus_per_worker, asked.gpus_per_worker) == (cpus, gpus), (
            "no node is half idle"
        )


def test_the_kubernetes_file_is_a_job_whose_head_does_no_work() -> None:
    manifest = yaml.safe_load(KUBERAY.read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    job = manifest["spec"]
    program = shlex.split(job["entrypoint"])[0]
    assert program.startswith("/"), "an absolute path"
    assert f"{program} tokenize" in PAGE.read_text(), "the same one as the page's"
    cluster = job["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {c["image"] for pod in pods for c in pod["template"]["spec"]["containers"]}
    assert len(images) == 1, "Ray and Python must be the same everywhere"
    for pod in pods:
        for container in pod["template"]["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
