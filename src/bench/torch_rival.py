"""PyTorch's side of the talk in process_rival.h: computes on demand. Run with `python3 -c`, its text being embedded.

An operation is a function of (parameters, inputs, outputs) that returns one run as a function without arguments, which
returns its results in the order of the outputs. It may write into `outputs` and return them.
"""

import json
import sys
import time

try:
    import torch
except ImportError as error:
    for _ in sys.stdin:
        print(json.dumps({"error": f"not found: {sys.executable} has no torch ({error}); "
                                   "name a Python that has in SPORKLE_PYTHON"}), flush=True)
    sys.exit(0)

DTYPES = {"f32": torch.float32, "f64": torch.float64, "i32": torch.int32}


def gemm(parameters, inputs, outputs):
    a = inputs[0].t() if parameters["transpose_a"] else inputs[0]
    b = inputs[1].t() if parameters["transpose_b"] else inputs[1]
    return lambda: [torch.matmul(a, b, out=outputs[0])]


def elementwise(parameters, inputs, outputs):
    x, w, b, r = inputs
    return lambda: [torch.nn.functional.gelu(torch.addcmul(b, x, w), approximate="tanh").add_(r)]


def reduce(parameters, inputs, outputs):
    axes = [axis for axis in (0, 1) if parameters[f"axis{axis}"]]
    return lambda: [torch.sum(inputs[0], dim=axes)]


OPERATIONS = {"gemm": gemm, "elementwise": elementwise, "reduce": reduce}


def open_array(array):
    count = 1
    for extent in array["shape"]:
        count *= extent
    flat = torch.from_file(array["path"], shared=True, size=count, dtype=DTYPES[array["dtype"]])
    return flat.reshape(array["shape"])


class Worker:
    def __init__(self):
        self.runs = []
        self.outputs = []
        self.results = []

    def open(self, request):
        operation = OPERATIONS.get(request["operation"])
        if operation is None:
            return {"error": f"the script has no operation {request['operation']}"}
        torch.set_num_threads(request["threads"])
        torch.set_num_interop_threads(1)
        for arrays in request["sets"]:
            inputs = [open_array(array) for array in arrays["inputs"]]
            outputs = [open_array(array) for array in arrays["outputs"]]
            self.runs.append(operation(request["parameters"], inputs, outputs))
            self.outputs.append(outputs)
        self.results = [[] for _ in self.runs]
        return {"version": f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"}

    def run(self, request):
        count = len(self.runs)
        start = time.perf_counter()
        for i in range(request["repetitions"]):
            self.results[i % count] = self.runs[i % count]()
        return {"seconds": time.perf_counter() - start}

    def store(self, _request):
        for outputs, results in zip(self.outputs, self.results):
            for output, result in zip(outputs, results):
                if output.data_ptr() != result.data_ptr():
                    output.copy_(result)
        return {}


def main():
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request["do"])(request)
        except Exception as error:  # whatever PyTorch raises is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
