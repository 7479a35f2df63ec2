from __future__ import annotations

from bigmachine.image.environ import shipped_environ


def test_only_what_shapes_the_program_goes_to_another_host() -> None:
    goes = {
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "error",
        "LANG": "C.UTF-8",
        "LC_ALL": "C",
        "TZ": "UTC",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
    }
    stays = {
        "PYTHONPATH": "/a",
        "PYTHONHOME": "/b",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HOME": "/root",
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "VIRTUAL_ENV": "/env",
        "MY_PYTHON": "1",
    }
    assert shipped_environ(goes | stays) == goes
