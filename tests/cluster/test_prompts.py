"""At a prompt and in a notebook the same calls work: the classes of `__main__` travel by value."""

from __future__ import annotations

import json

from tests.cluster.programs import RunProgram, StartProgram, WriteProgram
from tests.cluster.terminal import run_in_terminal

TYPED = """\
import bigmachine
class Trouble(Exception): pass

def double(n): return 2 * n

class Service:
    def value(self, n): return double(n)
    def fail(self): raise Trouble("no luck", 7)

session = bigmachine.start("local")
machine, = session.start(services=[Service()])
"value", machine.call(Service.value, 21)
try: machine.call(Service.fail)
except Trouble as trouble: "trouble", trouble.args

class Service:
    def value(self, n): return n + 100

machine, = session.start(services=[Service()])
"new value", machine.call(Service.value, 21)
"""


def test_classes_that_were_typed_travel_and_a_new_definition_counts(start_program: StartProgram) -> None:
    shown = run_in_terminal(start_program, "-q", typed=TYPED + "exit()\n")
    assert "('value', 42)\n" in shown
    assert "('trouble', ('no luck', 7))\n" in shown
    assert "('new value', 121)\n" in shown


def test_a_prompt_without_a_terminal_that_ends_with_its_input_leaves_no_machine(run_program: RunProgram) -> None:
    # Whether machines are left is what run_program looks at.
    assert "('new value', 121)\n" in run_program("-i", "-q", stdin=TYPED).out


def test_classes_of_a_script_that_ended_at_a_prompt_travel(start_program: StartProgram, write: WriteProgram) -> None:
    definitions, start, calls = TYPED.partition("session =")
    path = write("app.py", definitions)
    assert "('value', 42)\n" in run_in_terminal(start_program, "-i", path, typed=f"{start}{calls}exit()\n")


#: Runs the cells that its standard input gives as JSON in a kernel, and says what each one showed.
NOTEBOOK = """
import json, sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name="python3", startup_timeout=30)
try:
    for cell in json.load(sys.stdin):
        said = []

        def show(message):
            content = message["content"]
            said.append(content.get("text") or content.get("data", {}).get("text/plain") or content.get("ename") or "")

        client.execute_interactive(cell, output_hook=show, timeout=20)
        print(json.dumps("".join(said)))
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=NOW)
"""

SERVICE_CELL = """
import bigmachine

class Trouble(Exception):
    pass

def double(n):
    return 2 * n

class Service:
    def value(self, n):
        return double(n)
    def fail(self):
        raise Trouble("no luck", 7)
    async def count(self, n):
        for i in range(n):
            yield i

session = bigmachine.start("local")
machine, = session.start(services=[Service()])
machine.call(Service.value, 21)
"""


def notebook(run_program: RunProgram, write: WriteProgram, *cells: str, kill: bool = False) -> list[str]:
    """Run cells in a real kernel; return what each of them showed."""
    path = write("notebook.py", NOTEBOOK.replace("NOW", str(kill)))
    home = str(path.parent)  # for the kernel's history and its connection file
    return [
        json.loads(line)
        for line in run_program(
            path, stdin=json.dumps(cells), environ={"HOME": home, "JUPYTER_RUNTIME_DIR": home}
        ).out.splitlines()
    ]


def test_classes_of_a_notebook_travel_and_a_new_definition_counts(run_program: RunProgram, write: WriteProgram) -> None:
    said = notebook(
        run_program,
        write,
        SERVICE_CELL,
        "try:\n    machine.call(Service.fail)\nexcept Trouble as trouble:\n    print(trouble.args)",
        "class Service:\n    def value(self, n):\n        return n + 100",
        "machine, = session.start(services=[Service()])\nmachine.call(Service.value, 21)",
        "await machine.submit(Service.value, 22)",
        "session.shutdown()",
    )
    assert said == ["42", "('no luck', 7)\n", "", "121", "122", ""]


def test_a_stream_can_be_read_in_the_event_loop_of_a_notebook(run_program: RunProgram, write: WriteProgram) -> None:
    said = notebook(run_program, write, SERVICE_CELL, "[i async for i in machine.call(Service.count, 3)]")
    assert said == ["42", "[0, 1, 2]"]


def test_a_kernel_that_is_killed_leaves_no_machine(run_program: RunProgram, write: WriteProgram) -> None:
    # Whether machines are left is what run_program looks at.
    assert notebook(run_program, write, SERVICE_CELL, kill=True) == ["42"]
