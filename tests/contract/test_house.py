"""The rules of the house that no linter knows, and the facts that stand in two places."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

IMAGES = ("data-downloader", "pusher", "trainer")
# In none of a Job's containers: the author's side, watching a cluster.
CONTROLLER = "controller"
ROOMS = ("shared/tuning", "workspace/kaito_tuning", *(f"images/{i}/{i.replace('-', '_')}" for i in IMAGES))
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "handler", "misc"}


def modules(root: Path) -> list[Path]:
    return [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]


def test_every_room_is_where_the_architecture_says(root: Path) -> None:
    for room in ROOMS:
        assert (root / room / "__init__.py").is_file(), room


def test_no_module_is_a_drawer(root: Path) -> None:
    assert [path for path in modules(root) if path.stem in FORBIDDEN_NAMES] == []


def test_every_module_says_what_it_is_for(root: Path) -> None:
    assert [path for path in modules(root) if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_the_environment_is_read_at_the_door_only(root: Path) -> None:
    doors = {"__main__.py", "cli.py"}
    reading = [path for path in modules(root) if "os.environ" in path.read_text() or "os.getenv" in path.read_text()]
    assert [path for path in reading if path.name not in doors] == []


def test_every_exception_is_caught_at_the_end_only(root: Path) -> None:
    catching = [path.name for path in modules(root) if re.search(r"except (Base)?Exception\b", path.read_text())]
    # attempt.py announces what entrypoint.py turns into an exit code; crew.py hands it to the main thread;
    # attention.py keeps one Workspace that goes wrong from stopping the others.
    assert sorted(catching) == ["attempt.py", "attention.py", "crew.py", "entrypoint.py", "files.py"]


def test_every_image_has_what_an_image_has(root: Path) -> None:
    everything = sorted((*IMAGES, CONTROLLER))
    assert sorted(path.name for path in (root / "images").iterdir() if path.is_dir()) == everything
    for image in everything:
        for name in ("Dockerfile", "README.md", "requirements.lock"):
            assert (root / "images" / image / name).is_file(), (image, name)
    for image in IMAGES:
        assert (root / "images" / image / image.replace("-", "_") / "__main__.py").is_file(), image


def test_the_bake_file_builds_every_image(root: Path) -> None:
    text = (root / "docker-bake.hcl").read_text()
    [matrix] = re.findall(r"image = \[(.*?)\]", text)
    [group] = re.findall(r'group "default" \{ targets = \[(.*?)\]', text)
    for names in (matrix, group):
        assert sorted(re.findall(r'"(.*?)"', names)) == sorted(IMAGES)


def test_the_image_tags_of_a_job_are_those_of_the_bake_file_and_the_version(root: Path) -> None:
    from kaito_tuning.options import Images

    text = (root / "docker-bake.hcl").read_text()
    assert f'variable "TAG" {{ default = "{Images.tag}" }}' in text
    assert f'variable "REGISTRY" {{ default = "{Images.registry}" }}' in text
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"] == Images.tag


def test_a_dockerfile_runs_its_own_app_as_nobody(root: Path) -> None:
    for image in IMAGES:
        text = (root / "images" / image / "Dockerfile").read_text()
        module = image.replace("-", "_")
        assert f'ENTRYPOINT ["python", "-m", "{module}"]' in text
        assert "USER 65532:65532" in text
        final = text[text.rindex("\nFROM ") :]
        copied = re.findall(r"^COPY (?!--from=(?:build|base-layer) )(?:--from=\w+ )?(\S+)", final, re.MULTILINE)
        assert set(copied) <= {"tuning", "chat_templates", "kaito", module}
        assert copied[-1] == module, "code last"


def test_the_controllers_image_runs_the_command(root: Path) -> None:
    text = (root / "images" / CONTROLLER / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m", "kaito_tuning.cli", "controller"]' in text
    assert "USER 65532:65532" in text
    assert text.rindex("COPY --from=shared tuning") < text.rindex("COPY --from=workspace kaito_tuning")


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[_.]", "-", name.lower()): version for name, version in found}


def lock_of(root: Path, image: str) -> Path:
    """The lock that the tests can install: the trainer's is that of the CPU build."""
    return root / "images" / image / ("requirements-cpu.lock" if image == "trainer" else "requirements.lock")


def test_all_locks_agree_with_the_one_that_the_tests_run_with(root: Path) -> None:
    tested = pins(root / "requirements-dev.lock")
    for image in (*IMAGES, CONTROLLER):
        locked = pins(lock_of(root, image))
        assert locked
        assert {name: tested.get(name) for name in locked} == locked, image


def test_the_trainers_lock_is_the_tested_one_and_what_cuda_needs(root: Path) -> None:
    tested, released = pins(lock_of(root, "trainer")), pins(root / "images" / "trainer" / "requirements.lock")
    assert {name: released.get(name) for name in tested} == tested
    for name in set(released) - set(tested):
        assert name.startswith(("nvidia-", "cuda-", "triton")), name
    assert "nvidia-cublas" in released


def test_the_locks_hold_what_the_project_asks_for(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for image in (*IMAGES, CONTROLLER):
        extras = ("workspace", CONTROLLER) if image == CONTROLLER else (image,)
        wanted = project["dependencies"] + [
            need for extra in extras for need in project["optional-dependencies"][extra]
        ]
        names = {re.split(r"[<>=\[;]", requirement)[0].lower().replace(".", "-") for requirement in wanted}
        assert names <= set(pins(lock_of(root, image))), image


def test_torch_is_exact_everywhere(root: Path) -> None:
    assert pins(root / "images" / "trainer" / "requirements.lock")["torch"] == "2.13.0"
    assert '"torch==2.13.0"' in (root / "pyproject.toml").read_text()


def test_every_image_is_locked_with_hashes(root: Path) -> None:
    for image in (*IMAGES, CONTROLLER):
        text = (root / "images" / image / "requirements.lock").read_text()
        assert all("--hash=sha256:" in block for block in re.split(r"\n(?=\w)", text) if "==" in block.split("\n")[0])


def imported(root: Path, room: str) -> set[str]:
    found = set()
    for path in (root / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("image", [*IMAGES, CONTROLLER])
def test_an_image_imports_only_what_its_lock_installs(root: Path, image: str) -> None:
    locked = set(pins(root / "images" / image / "requirements.lock"))
    distributions = {"yaml": "pyyaml", "backports": "backports-zstd"}
    stdlib_of_a_later_python = {"compression"}
    room = "workspace/kaito_tuning" if image == CONTROLLER else f"images/{image}/{image.replace('-', '_')}"
    needed = (imported(root, room) | imported(root, "shared/tuning")) - {Path(room).name, "tuning"}
    needed -= stdlib_of_a_later_python
    assert {distributions.get(name, name.replace("_", "-")) for name in needed} <= locked


def test_the_accepted_keys_are_those_of_the_pinned_libraries(root: Path) -> None:
    code = (
        f"import sys, json; sys.path.insert(0, {str(root / 'images/trainer')!r});"
        "from generate_accepted_keys import accepted_keys; print(json.dumps(accepted_keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(
        (root / "shared/tuning/accepted_keys.json").read_text()
    )


def documents(root: Path) -> list[tuple[str, Any]]:
    return [
        (path.name, document)
        for path in sorted((root / "deploy").rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def test_every_file_in_deploy_is_loaded_by_what_it_is_for(root: Path) -> None:
    from kaito_tuning.job import render
    from kaito_tuning.reading import parse_workspace
    from kaito_tuning.schema import custom_resource_definition
    from tuning.training_config import CONFIG_KEY, parse_training_config

    for name, document in documents(root):
        if document["kind"] == "Workspace":
            render(parse_workspace(document, source=name), None)
        elif name == "crd.yaml":
            assert document == custom_resource_definition()
        elif document["kind"] == "ConfigMap":
            method = name.partition("-")[0]
            assert parse_training_config(document["data"][CONFIG_KEY], source=name, method=method).method == method


def test_the_project_speaks_only_of_itself(root: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    this = Path(__file__).relative_to(root)
    words = [str(root.parent) + "/", "." + "library"]
    for name in listed:
        if Path(name) != this and (root / name).is_file():
            text = (root / name).read_text(errors="ignore")
            assert not [word for word in words if word in text], name
