"""What README, CONTRIBUTING and deploy/ say of settings, fields, modules and steps is what there is."""
import os
import re
import subprocess

import pytest

from harness import NEARCACHE_BIN, clean_environment

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def rows(text):
    """The cells of each row of its tables."""
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in text.splitlines()
            if line.startswith("| `")]


def test_every_setting_stands_in_the_readme():
    """In their order, with their defaults, and whether they can change while running."""
    known = re.findall(r'^SETTING\(\w+, "([^"]+)", \w+, (?:NULL|"([^"]*)"), (true|false),',
                       read("sidecar/config.def"), re.MULTILINE)
    told = rows(section(read("README.md"), "Configuration"))
    assert [row[0].strip("`") for row in told] == [path for path, _, _ in known]
    for (path, default, reload), row in zip(known, told):
        assert row[2] == ("+" if reload == "true" else ""), path
        if default:
            assert row[1] == f"`{default}`", path


def test_fields_of_the_readme_are_those_of_info(redis_server, nearcache):
    info = nearcache(upstream=redis_server()).client().info("nearcache")
    told = [name for row in rows(section(read("README.md"), "What to watch"))
            for name in re.findall(r"`(\w+)`", row[0])]
    assert told and len(set(told)) == len(told)
    assert not set(told) - set(info)
    assert set(info) - set(told) == {"nearcache_version", "service", "namespace", "uptime_in_seconds",
                                     "process_id", "mapped", "holes", "monitors"}


def test_tests_that_the_readme_names_are_there():
    sources = "".join(read(os.path.join(folder, name))
                      for folder in ("tests/coherence", "tests/e2e")
                      for name in os.listdir(os.path.join(ROOT, folder)) if name.endswith(".py"))
    named = set(re.findall(r"`(test_\w+)(?:\[\w+\])?`", read("README.md")))
    assert named and all(f"def {name}(" in sources for name in named)


def test_files_that_the_documents_name_are_there():
    for document in ("README.md", "CONTRIBUTING.md"):
        for name in re.findall(r"\b(?:tests|deploy|sidecar|protocol)/[\w./]+\w", read(document)):
            assert os.path.exists(os.path.join(ROOT, name)), f"{document}: {name}"


def test_contributing_lists_the_modules_in_the_lints_order():
    modules = re.search(r'^MODULES = """(.*?)"""', read("tests/lint"), re.MULTILINE | re.DOTALL)[1].split()
    files = {os.path.splitext(name)[0] for folder in ("protocol", "sidecar")
             for name in os.listdir(os.path.join(ROOT, folder)) if name.endswith((".c", ".h"))}
    house = re.search(r"^    protocol/.*?(?=^    tests/)", read("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL)[0]
    # At most four words before two spaces or the end of the line, indented by six.
    lines = re.findall(r"^      (\w+(?: \w+)*)(?:  |$)", house, re.MULTILINE)
    assert " ".join(lines).split() == [name for name in modules if name in files]


def test_contributing_lists_the_steps():
    steps = re.search(r"^        (unit \|.*?)\) what=", read("tests/run"), re.MULTILINE | re.DOTALL)[1]
    told = "\n".join(re.findall(r"^    tests/run (.*)", read("CONTRIBUTING.md"), re.MULTILINE))
    for step in set(re.findall(r"\w+", steps)) - {"all"}:
        assert re.search(rf"\b{step}\b", told.replace("#", " ")), step


def test_the_example_for_kubernetes(tmp_path):
    """It can be read, and nearcache understands what it is given; the pod has time to end."""
    yaml = pytest.importorskip("yaml")
    pod = yaml.safe_load(read("deploy/kubernetes.yaml"))["spec"]["template"]["spec"]
    sidecar, app = pod["initContainers"][0], pod["containers"][0]
    password = tmp_path / "password"
    password.write_text("secret\n")
    args = [arg.replace("/etc/nearcache/password", str(password)) for arg in sidecar["args"]]
    done = subprocess.run([NEARCACHE_BIN, "--check", *args], env=clean_environment(), capture_output=True,
                          text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    path = next(arg for arg in args if arg.startswith("--listen=unix:")).removeprefix("--listen=unix:")
    assert path in sidecar["livenessProbe"]["exec"]["command"] and path in app["env"][0]["value"]
    drain = next(arg for arg in args if arg.startswith("--drain_timeout=")).partition("=")[2]
    assert pod["terminationGracePeriodSeconds"] > int(drain.removesuffix("s"))
    mounts = [{m["name"]: m["mountPath"] for m in c["volumeMounts"]} for c in (sidecar, app)]
    assert mounts[0]["nearcache"] == mounts[1]["nearcache"] == os.path.dirname(path)
    assert {m for mount in mounts for m in mount} == {volume["name"] for volume in pod["volumes"]}
