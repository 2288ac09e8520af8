"""The code of another commit, ready to run beside this checkout; everything lies under ``build/bench-ref/``.

A commit is checked out once and kept, so a second comparison with it starts at once. It uses this checkout's
environments where its list of requirements is the same, and builds its own where it is not.
"""

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from local.environments import interpreter
from local.layout import BUILD, ENVIRONMENTS, ROOT
from local.system import Say
from nearline.errors import Misconfigured, Unavailable

FOLDER = BUILD / "bench-ref"
_NEEDED = ("services", "triton", "flink")  # the environments that a system runs in
_DOWNLOADED = ("kafka", "flink")  # under build/


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout that a system can be started from."""

    name: str
    root: Path

    @property
    def python(self) -> Path:
        """The interpreter of its services."""
        return self.root / ".venv" / "services" / "bin" / "python"


def this_tree() -> Tree:
    """The checkout that this program belongs to, with what is not committed."""
    return Tree("this", ROOT)


def tree_of(reference: str, say: Say) -> Tree:
    """The tree of the commit that *reference* names, ready to run; ``Misconfigured`` if there is no such commit."""
    commit = commit_of(reference)
    root = FOLDER / commit[:12]
    if not root.exists():
        say(f"checking out {commit[:12]}")
        _check_out(commit, root)
    _share_or_build(root, say)
    _download(root, say)
    return Tree(commit[:7], root)


def commit_of(reference: str) -> str:
    """The full id of the commit that *reference* names."""
    words = ["git", "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        raise Misconfigured(f"REF={reference}: expected a commit of this repository, and there is none of that name")
    return found.stdout.strip()


def _check_out(commit: str, root: Path) -> None:
    """Write the commit's files to *root*, which is there as a whole or not at all."""
    new = root.with_name(f"{root.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    archive = new / "archive.tar"
    _run(["git", "archive", "--output", str(archive), commit], ROOT, f"reading commit {commit[:12]}")
    with tarfile.open(archive) as files:
        files.extractall(new, filter="data")
    archive.unlink()
    new.rename(root)


def _share_or_build(root: Path, say: Say) -> None:
    """Give *root* its environments."""
    folder = root / ".venv"
    folder.mkdir(exist_ok=True)
    _link(folder / "boot", ENVIRONMENTS / "boot")  # holds uv alone
    own = [name for name in _NEEDED if not is_same_list(name, root)]
    for name in _NEEDED:
        if name not in own:
            _link(folder / name, ENVIRONMENTS / name)
        elif (folder / name).is_symlink():
            (folder / name).unlink()  # this checkout's list has changed since
    if own:
        say(f"building environments of {root.name}: {', '.join(own)}")
        _run([str(interpreter()), "-m", "local.environments", *own], root, f"building environments in {folder}")


def is_same_list(name: str, root: Path) -> bool:
    """Whether environment *name* holds the same packages in *root* as in this checkout."""
    ours, theirs = (folder / "requirements" / f"{name}.txt" for folder in (ROOT, root))
    return theirs.read_bytes() == ours.read_bytes()


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def _download(root: Path, say: Say) -> None:
    """Give *root* its Java archives: this checkout's where they are the same version."""
    for name in _DOWNLOADED:
        if (BUILD / name).exists() and not (root / "build" / name).exists():
            shutil.copytree(BUILD / name, root / "build" / name)
    say(f"downloads of {root.name}")
    python = Tree(root.name, root).python
    _run([str(python), "-m", "local.downloads"], root, f"downloading what {root.name} needs")


def _run(words: list[str], folder: Path, what: str) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{what} failed ({done.returncode}):\n{(done.stdout + done.stderr).strip()[-2000:]}")
