"""Times NumPy and SciPy on request, one line of JSON in, one out: the benchmarks take turns with it."""

import ctypes
import glob
import json
import os
import sys
import time

import numpy as np
import scipy.linalg

operations = {
    "matmul": lambda a, b: a @ b,
    "eigh": lambda a: np.linalg.eigh(a)[0][::-1],
    "svd": lambda a: scipy.linalg.svd(a, full_matrices=False, lapack_driver="gesdd")[1],
    "softmax": lambda a: softmax(a),
}


def softmax(a):
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def core():
    """The kernels that OpenBLAS has chosen."""
    folder = os.path.join(os.path.dirname(np.__file__), "..", "numpy.libs")
    for path in glob.glob(os.path.join(folder, "*openblas*")):
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_get_corename64_", "openblas_get_corename"):
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype = ctypes.c_char_p
                return function().decode()
    return "unknown kernels"


work = {}
for line in sys.stdin:
    request = json.loads(line)
    answer = {}
    if request["do"] == "describe":
        answer = {"numpy": np.__version__, "scipy": scipy.__version__, "core": core()}
    elif request["do"] == "prepare":
        inputs = [np.fromfile(x["path"], x["dtype"]).reshape(x["shape"]) for x in request["inputs"]]
        work[request["id"]] = (operations[request["operation"]], inputs)
    elif request["do"] == "time":
        function, inputs = work[request["id"]]
        start = time.perf_counter()
        for _ in range(request["repeats"]):
            function(*inputs)
        answer = {"ms": (time.perf_counter() - start) * 1e3 / request["repeats"]}
    elif request["do"] == "result":
        function, inputs = work[request["id"]]
        np.asarray(function(*inputs), dtype=np.float64).tofile(request["path"])
    elif request["do"] == "forget":
        del work[request["id"]]
    print(json.dumps(answer), flush=True)
