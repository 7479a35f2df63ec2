"""Which files of a project go to a machine.

From the strongest rule to the weakest:

1. Secrets stay, by their names (`.env`, private keys, credentials); so does all that `Image(exclude=...)` names.
2. `.bigmachineignore` files, in the syntax of gitignore; a line with `!` brings back what the rules below leave out.
3. Version control, virtual environments, caches and build results stay.
4. What git ignores stays, except for a package's own modules: `_version.py`, generated code and extensions that were
   built in place are ignored by git, and yet the package does not work without them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from bigmachine.image.scan.placed import COMPILED

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

OWN_FILE = ".bigmachineignore"

_SECRET_FILES = (
    ".env",
    ".env.*",
    ".envrc",
    ".netrc",
    "_netrc",
    ".pypirc",
    ".pgpass",
    ".git-credentials",
    ".htpasswd",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.keystore",
    "*.jks",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "credentials.json",
)
_SECRET_FOLDERS = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure", ".gcloud"})

_FOLDERS = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".bzr",
        ".venv",
        "venv",
        "node_modules",
        "__pycache__",
        "__pypackages__",
        ".cache",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        ".ipynb_checkpoints",
        ".tox",
        ".nox",
        ".eggs",
        ".idea",
        ".vscode",
        ".terraform",
        "htmlcov",
    }
)
#: Left out unless they are packages: `import build` has to work where the project has such a one.
_BUILD_FOLDERS = frozenset({"build", "dist", "env"})
_FILES = ("*.pyc", "*.pyo", ".DS_Store", "*.swp", "*~", ".coverage", ".coverage.*")
_MODULE = (".py", ".pyi", *COMPILED)


def is_secret(name: str, *, is_folder: bool = False) -> bool:
    """Whether a file or folder of that name never goes to a machine by itself."""
    return name in _SECRET_FOLDERS if is_folder else any(fnmatchcase(name, each) for each in _SECRET_FILES)


class Rule(Protocol):
    """Decides about a path relative to where the rule stands; folders end with a slash. None: it says nothing."""

    def __call__(self, path: str, /) -> bool | None: ...


class Ignored:
    """Decides, for one project, what stays. Ask about a folder before asking about what is in it."""

    def __init__(self, root: str, exclude: Sequence[str] = ()) -> None:
        self.root = root
        self.read: list[str] = []  # the files that the answers come from
        self.secrets: list[str] = []  # what stayed for its name
        self._excluded = _spec(exclude)
        self._own: dict[str, GitIgnoreSpec | None] = {}
        self._git: dict[str, GitIgnoreSpec | None] = {}
        self._repository = _repository(root)
        self._general = [spec for path in _general_files(self._repository) if (spec := self._load(path)) is not None]

    def __call__(self, path: str, names: Iterable[str], *, is_folder: bool) -> bool:
        """Whether `path` (absolute, at or below the root) stays. `names` are those of its folder's files."""
        name = os.path.basename(path)
        if is_secret(name, is_folder=is_folder):
            self.secrets.append(path)
            return True
        if self._says(self._excluded, self.root, path, is_folder):
            return True
        own = self._decided(self._own, OWN_FILE, self.root, path, is_folder)
        if own is not None:
            return own
        if self._is_left_by_default(path, name, is_folder):
            return True
        if self._repository is None or (name.endswith(_MODULE) and "__init__.py" in names):
            return False
        decided = self._decided(self._git, ".gitignore", self._repository, path, is_folder)
        if decided is None:
            decided = any(self._says(spec, self._repository, path, is_folder) for spec in self._general)
        return decided

    def _is_left_by_default(self, path: str, name: str, is_folder: bool) -> bool:
        if not is_folder:
            return any(fnmatchcase(name, each) for each in _FILES)
        if name in _FOLDERS or name.endswith(".egg-info"):
            return True
        if name in _BUILD_FOLDERS:
            return not os.path.exists(f"{path}/__init__.py")
        return any(os.path.exists(f"{path}/{mark}") for mark in ("pyvenv.cfg", "conda-meta"))

    def _decided(
        self, known: dict[str, GitIgnoreSpec | None], name: str, top: str, path: str, is_folder: bool
    ) -> bool | None:
        """Return what the nearest file of that name says, from the path's folder up to `top`."""
        folder = os.path.dirname(path)
        while True:
            if folder not in known:
                known[folder] = self._load(f"{folder}/{name}")
            decided = self._says(known[folder], folder, path, is_folder)
            if decided is not None or folder == top or len(folder) <= len(top):
                return decided
            folder = os.path.dirname(folder)

    def _load(self, path: str) -> GitIgnoreSpec | None:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError:
            return None
        self.read.append(path)
        return _spec(lines)

    @staticmethod
    def _says(spec: GitIgnoreSpec | None, top: str, path: str, is_folder: bool) -> bool | None:
        if spec is None or not path.startswith(top):
            return None
        return spec.check_file(path[len(top.rstrip("/")) + 1 :] + ("/" if is_folder else "")).include


def _spec(lines: Iterable[str]) -> GitIgnoreSpec | None:
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        return None
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)


def _repository(root: str) -> str | None:
    """Return the folder of the git repository that a folder lies in."""
    folder = root
    while True:
        if os.path.exists(f"{folder}/.git"):
            return folder
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above


def _general_files(repository: str | None) -> list[str]:
    if repository is None:
        return []
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [f"{repository}/.git/info/exclude", f"{settings}/git/ignore"]


__all__ = ["OWN_FILE", "Ignored", "is_secret"]
