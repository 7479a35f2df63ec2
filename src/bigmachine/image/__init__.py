"""The program as something that machines run: what its main is, and running it again."""

from bigmachine.image.entry import Entry, Form, detect
from bigmachine.image.image import Image
from bigmachine.image.interpreter import interpreter_args
from bigmachine.image.rerun import program_traceback, run
from bigmachine.image.search import search_path

__all__ = ["Entry", "Form", "Image", "detect", "interpreter_args", "program_traceback", "run", "search_path"]
