"""The scripts behind the Makefile: they find what they are for, and do nothing where there is nothing to do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests import requirements

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(*command: str | Path, path: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": f"{path}:/usr/bin:/bin" if path else os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        **environ,
    }
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, check=False, timeout=30)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


class TestMakeVenv:
    @pytest.mark.parametrize(
        ("optimised", "chosen"),
        [({"3.12", "3.11"}, "3.12"), ({"3.11"}, "3.11"), (set(), "3.12")],
    )
    def test_takes_the_first_optimised_python_or_else_the_first_that_works(
        self, tools: Path, tmp_path: Path, optimised: set[str], chosen: str
    ) -> None:
        executable(tools / "python3.13", "#!/bin/sh\nexit 127\n")  # what a version manager puts there
        for version in ("3.12", "3.11"):
            answer = int(version not in optimised)
            executable(
                tools / f"python{version}",
                f'#!/bin/sh\ncase "$*" in -m*) echo "{version} $*";; *sysconfig*) exit {answer};; esac\n',
            )
        candidates = [tools / f"python{version}" for version in ("3.13", "3.12", "3.11")]
        result = run(SCRIPTS / "make-venv", tmp_path / "venv", *candidates)
        assert (result.returncode, result.stdout) == (0, f"{chosen} -m venv {tmp_path}/venv\n")

    def test_the_named_one_and_no_other(self, tools: Path, tmp_path: Path) -> None:
        executable(tools / "python3.11", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        result = run(SCRIPTS / "make-venv", tmp_path / "venv", "/nowhere/python3", path=tools)
        assert result.returncode == 1
        assert "/nowhere/python3" in result.stderr
        assert not (tmp_path / "venv").exists()

    def test_names_the_missing_package(self, tools: Path, tmp_path: Path) -> None:
        executable(
            tools / "old",
            f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n',
        )
        result = run(SCRIPTS / "make-venv", tmp_path / "venv", tools / "old", PASSERELLE_APT="no")
        assert result.returncode == 1
        major, minor = sys.version_info[:2]
        assert f"python{major}.{minor}-venv" in result.stderr


class TestSystemPackages:
    def test_names_what_is_missing_where_it_may_not_install(self) -> None:
        result = run(SCRIPTS / "system-packages", "--package", "one", "two", PASSERELLE_APT="no")
        assert (result.returncode, result.stdout) == (0, "")
        assert "Missing system packages: one two" in result.stderr

    def test_prints_nothing_if_no_package_is_missing(self, tools: Path) -> None:
        for program in ("chromium", "nginx", "pebble", "postgres", "redis-server", "wrk"):
            executable(tools / program, "#!/bin/sh\n")
        result = run(SCRIPTS / "system-packages", "test", path=tools, PASSERELLE_APT="no")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_installs_with_daemons_held_down_and_goes_on_without_what_apt_lacks(
        self, tools: Path, tmp_path: Path
    ) -> None:
        policy, log = tmp_path / "policy-rc.d", tmp_path / "log"
        executable(tools / "id", "#!/bin/sh\necho 0\n")
        executable(
            tools / "apt-get",
            f'#!/bin/sh\n{policy} >/dev/null; echo "$? $*" >> {log}\ncase "$*" in *absent*) exit 100;; esac\n',
        )
        result = run(SCRIPTS / "system-packages", "--package", "present", "absent", path=tools, POLICY_RC_D=str(policy))
        assert result.returncode == 0
        assert "apt has no absent here" in result.stderr
        assert log.read_text().splitlines() == [
            "101 -q update",
            "101 -q install -y --no-install-recommends present absent",
            "101 -q install -y --no-install-recommends present",
            "101 -q install -y --no-install-recommends absent",
        ]
        assert not policy.exists()

    def test_every_program_that_it_installs_is_one_that_a_test_can_name(self) -> None:
        text = (SCRIPTS / "system-packages").read_text().split("<<'PARTS'\n")[1].split("\nPARTS")[0]
        for line in text.splitlines():
            _, program, package = line.split()
            assert requirements.PACKAGES[program] == package


class TestTest:
    """The parts of the suite, with a program in place of Python that notes its arguments."""

    @pytest.mark.parametrize(
        ("codes", "code"),
        [
            ((0, 0, 0), 0),
            ((0, 5, 5), 0),
            ((5, 0, 5), 0),
            ((5, 5, 0), 0),
            ((5, 5, 5), 5),
            ((1, 0, 0), 1),
            ((0, 1, 0), 1),
            ((0, 0, 1), 1),
            ((1, 5, 5), 1),
            ((5, 1, 5), 1),
            ((5, 5, 1), 1),
        ],
    )
    def test_each_part_counts_and_one_without_tests_does_not(
        self, tmp_path: Path, codes: tuple[int, int, int], code: int
    ) -> None:
        python = tmp_path / "python"
        log = tmp_path / "log"
        cases = " ".join(f"*{part}*) exit {n};;" for part, n in zip(("together", "pairs", "alone"), codes, strict=True))
        executable(python, f'#!/bin/sh\necho "$*" >> {log}\ncase "$*" in {cases} esac\n')
        result = run(SCRIPTS / "test", python, "-k", "a or b")
        assert result.returncode == code
        assert log.read_text().splitlines() == [
            "-m pytest --part together -n auto --dist loadfile --no-loadscope-reorder -k a or b",
            "-m pytest --part pairs -n 2 --dist loadfile --no-loadscope-reorder -k a or b",
            "-m pytest --part alone -k a or b",
        ]

    def test_the_tests_that_take_long_are_a_part_of_their_own(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        log = tmp_path / "log"
        executable(python, f'#!/bin/sh\necho "$*" >> {log}\n')
        assert run(SCRIPTS / "test", "--long", python, "-k", "a or b").returncode == 0
        options = "-n 2 --dist loadfile --no-loadscope-reorder"
        assert log.read_text().splitlines() == [f"-m pytest --part long {options} -k a or b"]

    @pytest.mark.parametrize(
        ("part", "found"),
        [("together", ["garbage]: no", "close]: yes"]), ("long", ["guides: yes", "garbage]: yes", "close]: no"])],
    )
    def test_a_test_or_case_that_takes_long_belongs_to_no_other_part(self, part: str, found: list[str]) -> None:
        modules = ("docs/test_guides.py", "chaos/test_bad_instances.py", "benchmarks/test_procfs.py")
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--part", part]
        listed = run(*command, *(ROOT / "tests" / name for name in modules)).stdout
        assert "procfs" not in listed
        for line in found:
            name, answer = line.split(": ")
            assert (name in listed) == (answer == "yes"), listed

    @pytest.mark.parametrize("code", [2, 3, 4])
    def test_nothing_follows_an_interrupt_or_wrong_usage(self, tmp_path: Path, code: int) -> None:
        python = tmp_path / "python"
        executable(python, f"#!/bin/sh\necho a run\nexit {code}\n")
        result = run(SCRIPTS / "test", python)
        assert result.returncode == code
        assert result.stdout.count("a run") == 1


def test_processes_of_tests_react_to_signals_that_the_tests_were_started_to_ignore() -> None:
    names = ("SIGHUP", "SIGINT", "SIGQUIT")
    look = f"import signal; print(*[signal.getsignal(getattr(signal, name)) != signal.SIG_IGN for name in {names}])"
    code = f"import subprocess, sys; from tests.conftest import *; %s; subprocess.run([sys.executable, '-c', {look!r}])"
    for change, expected in (("None", "False False False"), ("pass_on_signals()", "True True True")):
        shell = f'trap "" HUP INT QUIT; exec {sys.executable} -c "$CODE"'
        assert run("sh", "-c", shell, CODE=code % change, PYTHONPATH=str(ROOT)).stdout.strip() == expected


class TestRequirements:
    def test_a_missing_program_skips_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setattr(requirements, "find", lambda name: None)
        with pytest.raises(pytest.skip.Exception, match=r"nginx is missing .*apt-get install nginx"):
            requirements.program("nginx")

    def test_a_missing_program_fails_with_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        monkeypatch.setattr(requirements, "find", lambda name: None)
        with pytest.raises(pytest.fail.Exception, match="nginx is missing"):
            requirements.program("nginx")

    def test_a_missing_package_skips_by_name_or_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match=r"no_such_package is missing \(make .venv/.bench\)"):
            requirements.module("no_such_package")
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="no_such_package is missing"):
            requirements.module("no_such_package")
        assert requirements.module("tests.requirements") is requirements

    def test_the_summary_counts_what_was_skipped(self) -> None:
        reasons = ["Skipped: nginx is missing (apt)", "Skipped: two CPUs are needed", "Skipped: nginx is missing (apt)"]
        assert requirements.summary(reasons) == "2 skipped for want of nginx; CI=true makes each a failure"
        assert requirements.summary(reasons[1:2]) == ""

    def test_an_unknown_program_is_a_mistake(self) -> None:
        with pytest.raises(ValueError, match="ngnix"):
            requirements.needs("ngnix")


@pytest.mark.parametrize(
    ("head", "lines", "fault"),
    [
        ("", 400, ""),
        ("", 401, "401 lines: state in its docstring why it is over 400 lines"),
        (
            '"""Long.\n"""\n',
            500,
            "500 lines: state in its docstring why it is over 400 lines",
        ),
        ('"""Long.\n\nOver 400\nlines: one table.\n"""\n', 750, ""),
        (
            '"""Long.\n\nOver 400\nlines: one table.\n"""\n',
            751,
            "751 lines, 750 at most: split it into two files with two subjects",
        ),
    ],
)
def test_lengths_of_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str, lines: int, fault: str
) -> None:
    path = tmp_path / "some.py"
    path.write_text(head + "x = 1\n" * (lines - head.count("\n")))
    code = script("check_lengths").main([str(tmp_path)])
    assert (code, capsys.readouterr().out) == ((1, f"{path}: {fault}\n") if fault else (0, ""))


class TestCheckDocs:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "Makefile").write_text("test: install\n")
        (tmp_path / "docs/reference").mkdir(parents=True)
        keys = script("check_docs").keys(script("check_docs").Config.model_json_schema())
        table = "".join(f"| `{key}` | what it is |\n" for key in sorted(keys))
        (tmp_path / "docs/reference/configuration.md").write_text(f"# Keys\n\n| key | meaning |\n|---|---|\n{table}")
        self.page(tmp_path, "docs/index.md", "[keys](reference/configuration.md)")
        return tmp_path

    @staticmethod
    def page(root: Path, name: str, text: str) -> None:
        (root / name).write_text(text)

    @staticmethod
    def faults(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
        code = script("check_docs").main(root)
        lines = capsys.readouterr().out.splitlines()
        assert code == (1 if lines else 0)
        return lines

    def test_nothing_wrong(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.page(root, "README.md", "# A b\n[x](docs/index.md) [y](#a-b) [z](https://example.com/) `make test`\n")
        assert self.faults(root, capsys) == []

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("[x](missing.md)", "link to missing.md: there is no such file"),
            ("![x](missing.svg)", "link to missing.svg: there is no such file"),
            ('<img src="missing.svg">', "link to missing.svg: there is no such file"),
            ("[x](#nowhere)", "link to #nowhere: there is no such heading"),
            ("[x](docs/index.md#nowhere)", "link to docs/index.md#nowhere: there is no such heading"),
            ("[x](../outside.md)", "link to ../outside.md: outside the repository"),
            ("`make toast`", "`make toast` does not exist"),
            ("```sh\nmake toast\n```", "`make toast` does not exist"),
            ("```console\n$ passerelle fly --high\n```", "`passerelle fly` does not exist"),
        ],
    )
    def test_each_kind_of_fault(self, root: Path, capsys: pytest.CaptureFixture[str], text: str, fault: str) -> None:
        (root.parent / "outside.md").touch()
        self.page(root, "README.md", text + "\n")
        assert self.faults(root, capsys) == [f"README.md: {fault}"]

    def test_a_page_that_nothing_leads_to(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.page(root, "docs/lonely.md", "# Alone\n")
        assert self.faults(root, capsys) == ["docs/lonely.md: not reachable from docs/index.md"]

    def test_an_example_that_the_gateway_refuses(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        example = 'services:\n  a: {targets: ["http://127.0.0.1:1"]}\nroutes:\n  - {path: /, servise: a}\n'
        self.page(root, "README.md", f"# Example\n\n```yaml\n{example}```\n")
        faults = self.faults(root, capsys)
        assert any(line.startswith("README.md:7: routes[0]") and "servise" in line for line in faults), faults

    def test_keys_that_the_reference_leaves_out_or_makes_up(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = root / "docs/reference/configuration.md"
        path.write_text(path.read_text().replace("| `listen` |", "| `lissen` |"))
        assert self.faults(root, capsys) == [
            "docs/reference/configuration.md: the key `listen` is missing",
            "docs/reference/configuration.md: there is no key `lissen`",
        ]


def test_the_lock_files_name_no_index_and_no_host_and_hash_everything() -> None:
    for lock in sorted(ROOT.glob("requirements*.lock")):
        text = lock.read_text()
        assert "://" not in text
        assert "--index" not in text
        blocks = text.replace("\\\n", " ").splitlines()
        packages = [line for line in blocks if "==" in line and not line.lstrip().startswith("#")]
        assert len(packages) > 2  # three for the image of backups
        assert all("--hash=sha256:" in line for line in packages), lock


class TestCheckWording:
    @pytest.mark.parametrize(
        ("name", "text", "lines"),
        [
            ("README.md", "The cache lets go of it.\n", [1]),
            ("README.md", "one\nThe cache lets\ngo of it.\n", [2]),
            ("README.md", "`anew` and\n```\nanew\n```\n", []),
            ("src/a.py", '"""Read anew."""\n', [1]),
            ("src/a.py", "anew = 1  # nobody\n", [1]),
            ("src/a.py", "anew = nobody\n", []),
            ("src/a.py", "# the cache lets\n# go of it\n", [1]),
            ("docs/a.md", "A renewed session, a lesson of anatomy.\n", []),
        ],
    )
    def test_refused_phrases_are_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, lines: list[int]
    ) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        assert script("check_wording").main(tmp_path) == (1 if lines else 0)
        assert [int(line.split(":")[1]) for line in capsys.readouterr().out.splitlines()] == lines


def capacity_slices(prediction: ModuleType, rate: float, foreign: float, count: int) -> list[object]:
    return [prediction.Slice(4.0, rate, foreign, rate / 100) for _ in range(count)]


def test_disturbed_slices_of_a_capacity_are_not_part_of_the_median() -> None:
    prediction = script("predict_capacity")
    quiet = capacity_slices(prediction, 100.0, 0.01, prediction.SLICES)
    disturbed = capacity_slices(prediction, 20.0, 0.9, 3 * prediction.SLICES)
    assert prediction.medians_of({4: [*disturbed, *quiet]}) == ([(4.0, 100.0)], [(100.0, 1.0)])
    with pytest.raises(SystemExit, match=r"other processes used 0\.90 CPUs"):
        prediction.medians_of({4: [*disturbed, *quiet[1:]]})


def test_the_numbers_of_clients_are_measured_in_alternating_order() -> None:
    prediction = script("predict_capacity")
    assert prediction.order(0) == prediction.LEVELS and prediction.order(1) == prediction.LEVELS[::-1]


def test_this_process_and_its_descendants_are_not_foreign() -> None:
    prediction = script("predict_capacity")
    me = os.getpid()
    parents = {me: 10, 20: me, 21: 20, 10: 1, 11: 10}
    assert [pid for pid in parents if prediction._is_own(pid, parents)] == [me, 20, 21]
