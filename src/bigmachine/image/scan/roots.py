"""Which folders of the module search path become trees of the image, and where in it they are mounted.

A folder that the program's start put on the path by itself (the script's, the working directory) stands for the
project that it lies in, if it lies in one; otherwise for those modules in it that the program uses. A folder that
somebody put there (`PYTHONPATH`, an editable install) is meant and goes whole, unless it is a home directory or `/`.
Folders inside another tree are part of that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from bigmachine.image.entry import Entry
from bigmachine.image.scan.editable import Editable
from bigmachine.image.scan.imports import loose_files
from bigmachine.image.scan.placed import Placed
from bigmachine.image.scan.trees import Tree, is_too_wide, project_root, safe_name, scan_tree, single_file


class Roots:
    """The trees of one image, in the order in which they were added."""

    def __init__(
        self,
        entry: Entry,
        cache_dir: Path | None,
        exclude: Sequence[str],
        files: Sequence[str],
        distrusted: Collection[str],
    ) -> None:
        self.placed: list[Placed] = []
        self.places: dict[str, str] = {}  # folder or file of the driver -> where it is in the image
        self._entry = entry
        self._cache_dir = cache_dir
        self._exclude = exclude
        self._files = files
        self._distrusted = distrusted

    def add_all(self, folders: Sequence[str], implicit: Collection[str]) -> None:
        """Add these folders and files of the search path; `implicit` are those that nobody put there."""
        trees = {folder: self._tree(folder, folder in implicit) for folder in folders}
        # The outermost first, so that those inside are found in it; mounted in the order of the path.
        for folder in sorted(folders, key=lambda each: len(trees[each].root)):
            tree = trees[folder]
            if self.find(folder) is None and not self._is_empty(tree):
                self.add(tree, folders.index(folder))

    def _tree(self, folder: str, is_implicit: bool) -> Tree:
        name = safe_name(folder)
        if is_implicit and (root := project_root(folder)) is not None:
            return Tree(root, safe_name(root))
        if is_implicit or is_too_wide(folder):
            script = self._entry.path
            inside = script if script is not None and script.startswith(f"{folder.rstrip('/')}/") else None
            only = loose_files(folder, inside, list(sys.modules.items()))
            return Tree(folder, name, only=tuple(only))
        return Tree(folder, name)

    def add(self, tree: Tree, number: int | None = None) -> str:
        """Scan a tree and return where it is mounted."""
        mount = f"roots/{len(self.placed) if number is None else number}-{tree.name}"
        while any(each.layer.mount == mount for each in self.placed):
            mount += "_"
        if os.path.isfile(tree.root):
            placed = single_file(tree.root, mount, self._cache_dir, self._distrusted)
            self.places[tree.root] = f"{mount}/{os.path.basename(tree.root)}"
        else:
            extra = tuple(each for each in self._files if each.startswith(f"{tree.root}/"))
            tree = Tree(tree.root, tree.name, tree.only, extra, tree.inside)
            placed = scan_tree(tree, mount, self._cache_dir, exclude=self._exclude, distrusted=self._distrusted)
            self.places[tree.root] = f"{mount}/{tree.inside}" if tree.inside else mount
        self.placed.append(placed)
        return mount

    def _is_empty(self, tree: Tree) -> bool:
        return tree.only == () and not any(each.startswith(f"{tree.root}/") for each in self._files)

    def find(self, path: str) -> str | None:
        """Return where in the image a folder or file of the driver is, if it is in one of the trees."""
        if path in self.places:
            return self.places[path]
        for placed in self.placed:
            for file, source in zip(placed.layer.files, placed.sources, strict=True):
                if source == path or source.startswith(f"{path}/"):
                    inside = source[len(path) :]
                    place = f"{placed.layer.mount}/{file.path}"
                    if place.endswith(inside):
                        return place[: len(place) - len(inside)]
        return None

    def add_files(self) -> None:
        """Add the extra files that lie in none of the trees, each as a tree of its own."""
        for path in self._files:
            if self.find(path) is None:
                self.add(Tree(path, safe_name(path)))


def editable_roots(editables: Iterable[Editable]) -> tuple[list[str], list[Tree]]:
    """Return what has to be on the search path for editable packages that a finder finds.

    That is the folder around each of them; but a package whose folder is named otherwise than the package becomes a
    tree of its own, in which it has its name.
    """
    folders: dict[str, None] = {}
    trees: list[Tree] = []
    for each in editables:
        for top, path in each.tops:
            place = os.path.dirname(path) if os.path.basename(path).startswith("__init__.") else path
            is_folder = os.path.isdir(place)
            stem = (
                place if is_folder else os.path.join(os.path.dirname(place), os.path.basename(place).partition(".")[0])
            )
            inside = f"/{top.replace('.', '/')}"
            if stem.endswith(inside):
                folders[stem[: -len(inside)]] = None
            elif is_folder:
                trees.append(Tree(place, safe_name(top), inside=inside[1:]))
    return list(folders), trees


__all__ = ["Roots", "editable_roots"]
