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


def conv2d(parameters, inputs, outputs):
    kind = ("forward", "image", "weight")[parameters["pass"]]
    options = {name: parameters[name] for name in ("stride", "padding", "dilation", "groups")}
    if kind == "forward":
        return lambda: [torch.nn.functional.conv2d(inputs[0], inputs[1], **options)]
    images, weight, gradient = inputs
    pair = {name: [value, value] for name, value in options.items() if name != "groups"}
    wanted = [kind == "image", kind == "weight", False]

    def run():
        made = torch.ops.aten.convolution_backward(
            gradient, images, weight, None, pair["stride"], pair["padding"], pair["dilation"], False, [0, 0],
            options["groups"], wanted)
        return [made[0] if kind == "image" else made[1]]

    return run


def attention(parameters, inputs, outputs):
    product = torch.nn.functional.scaled_dot_product_attention
    if not parameters["backward"]:
        return lambda: [product(*inputs, is_causal=True)]
    given = [x.clone().requires_grad_() for x in inputs[:3]]

    def run():
        y = product(*given, is_causal=True)
        return [y.detach(), *torch.autograd.grad(y, given, inputs[3])]

    return run


class Train:
    """A GPT-2 and AdamW as one writes them in PyTorch: parameters as in Hugging Face, weights [inputs, outputs]."""

    def __init__(self, parameters, inputs, outputs):
        self.p = parameters
        tokens, targets, self.start, numbers = inputs
        self.tokens, self.targets = tokens.long(), targets.long().flatten()
        self.rate, beta1, beta2, epsilon, decay, self.clip = numbers.tolist()
        self.adamw_options = {"lr": self.rate, "betas": (beta1, beta2), "eps": epsilon}
        self.decay = decay
        width = parameters["width"]
        norm = [(width,), (width,)]

        def linear(inputs, outputs):
            return [(inputs, outputs), (outputs,)]

        self.shapes = [(parameters["vocab_size"], width), (parameters["context"], width)]
        for _ in range(parameters["layers"]):
            self.shapes += norm + linear(width, 3 * width) + linear(width, width)
            self.shapes += norm + linear(width, 4 * width) + linear(4 * width, width)
        self.shapes += norm
        self.restart()

    def restart(self):
        flat = self.start.clone()
        parts = torch.split(flat, [torch.Size(shape).numel() for shape in self.shapes])
        self.values = [part.reshape(shape).clone().requires_grad_() for part, shape in zip(parts, self.shapes)]
        self.adamw = torch.optim.AdamW(
            [{"params": [x for x in self.values if x.dim() == 2], "weight_decay": self.decay},
             {"params": [x for x in self.values if x.dim() == 1], "weight_decay": 0.0}], **self.adamw_options)
        self.losses = []
        self()

    def loss(self):
        functional = torch.nn.functional
        values = iter(self.values)
        wte, wpe = next(values), next(values)
        rows, length = self.tokens.shape
        width, heads = self.p["width"], self.p["heads"]

        def norm(x):
            return functional.layer_norm(x, (width,), next(values), next(values), 1e-5)

        def linear(x):
            weight, bias = next(values), next(values)
            return torch.addmm(bias, x.reshape(-1, x.size(-1)), weight).reshape(rows, length, -1)

        x = functional.embedding(self.tokens, wte) + wpe
        for _ in range(self.p["layers"]):
            parts = linear(norm(x)).reshape(rows, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
            x = x + linear(mixed.transpose(1, 2).reshape(rows, length, width))
            x = x + linear(functional.gelu(linear(norm(x)), approximate="tanh"))
        return functional.cross_entropy((norm(x) @ wte.t()).reshape(-1, wte.size(0)), self.targets)

    def __call__(self):
        self.adamw.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        if self.clip > 0:
            torch.nn.utils.clip_grad_norm_(self.values, self.clip)
        self.adamw.step()
        self.losses.append(loss.item())
        return [torch.tensor([len(self.losses), self.losses[0], self.losses[-1]], dtype=torch.float64)]


class ResNet:
    """A ResNet-18 for small images and AdamW as one writes them in PyTorch; parameters in torchvision's order."""

    def __init__(self, parameters, inputs, outputs):
        self.images, classes, self.start, numbers = inputs
        self.classes = classes.long()
        self.rate, beta1, beta2, epsilon, self.decay, self.clip = numbers.tolist()
        self.adamw_options = {"lr": self.rate, "betas": (beta1, beta2), "eps": epsilon}
        width = parameters["width"]

        def unit(inputs, filters, kernel):
            return [(filters, inputs, kernel, kernel), (filters,), (filters,)]

        self.strides = []  # of each block
        self.shapes = unit(parameters["channels"], width, 3)
        inputs = width
        for stage in range(4):
            filters = width << stage
            for block in range(2):
                self.strides.append(2 if stage > 0 and block == 0 else 1)
                self.shapes += unit(inputs, filters, 3) + unit(filters, filters, 3)
                if self.strides[-1] != 1 or inputs != filters:
                    self.shapes += unit(inputs, filters, 1)
                inputs = filters
        self.shapes += [(parameters["classes"], inputs), (parameters["classes"],)]
        self.restart()

    def restart(self):
        parts = torch.split(self.start.clone(), [torch.Size(shape).numel() for shape in self.shapes])
        self.values = [part.reshape(shape).clone().requires_grad_() for part, shape in zip(parts, self.shapes)]
        self.statistics = [(torch.zeros(x.shape[0]), torch.ones(x.shape[0])) for x in self.values if x.dim() == 4]
        self.adamw = torch.optim.AdamW(
            [{"params": [x for x in self.values if x.dim() > 1], "weight_decay": self.decay},
             {"params": [x for x in self.values if x.dim() == 1], "weight_decay": 0.0}], **self.adamw_options)
        self.losses = []
        self()

    def loss(self):
        functional = torch.nn.functional
        values, statistics = iter(self.values), iter(self.statistics)

        def unit(x, stride):
            weight, scale, shift = next(values), next(values), next(values)
            x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
            mean, variance = next(statistics)
            return functional.batch_norm(x, mean, variance, scale, shift, training=True)

        x = functional.relu(unit(self.images, 1), inplace=True)
        for stride in self.strides:
            inner = functional.relu(unit(x, stride), inplace=True)
            inner = unit(inner, 1)
            shortcut = x if inner.shape == x.shape else unit(x, stride)
            x = functional.relu(inner + shortcut, inplace=True)
        weight, bias = next(values), next(values)
        return functional.cross_entropy(functional.linear(x.mean((2, 3)), weight, bias), self.classes)

    def __call__(self):
        self.adamw.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        if self.clip > 0:
            torch.nn.utils.clip_grad_norm_(self.values, self.clip)
        self.adamw.step()
        self.losses.append(loss.item())
        return [torch.tensor([len(self.losses), self.losses[0], self.losses[-1]], dtype=torch.float64)]


class Generate:
    """A GPT-2 that writes token by token, as one writes it in PyTorch: parameters as in Hugging Face."""

    def __init__(self, parameters, inputs, outputs):
        self.p = parameters
        text, flat = inputs
        self.text = text.long()
        width, layers, context = parameters["width"], parameters["layers"], parameters["context"]
        shapes = [(parameters["vocab_size"], width), (context, width)]
        for _ in range(layers):
            for rows, columns in ((None, width), (width, 3 * width), (width, width), (None, width), (width, 4 * width),
                                  (4 * width, width)):
                shapes += [(rows, columns) if rows else (columns,), (columns,)]
        shapes += [(width,), (width,)]
        parts = torch.split(flat.clone(), [torch.Size(shape).numel() for shape in shapes])
        self.values = [part.reshape(shape).clone() for part, shape in zip(parts, shapes)]
        heads = parameters["heads"]
        self.cache = torch.zeros(layers, 2, 1, heads, context, width // heads)
        with torch.inference_mode():
            for position in range(context):
                self.logits(position)
        self.restart()

    def restart(self):
        self.position = self.p["first"] - 1

    def logits(self, position):
        functional = torch.nn.functional
        values = iter(self.values)
        wte, wpe = next(values), next(values)
        width, heads = self.p["width"], self.p["heads"]

        def norm(x):
            return functional.layer_norm(x, (width,), next(values), next(values), 1e-5)

        def linear(x):
            weight, bias = next(values), next(values)
            return torch.addmm(bias, x, weight)

        x = (wte[self.text[position]] + wpe[position]).reshape(1, width)
        for keys, values_so_far in self.cache:
            q, k, v = linear(norm(x)).reshape(1, 3, heads, 1, width // heads).unbind(1)
            keys[:, :, position] = k[:, :, 0]
            values_so_far[:, :, position] = v[:, :, 0]
            mixed = functional.scaled_dot_product_attention(q, keys[:, :, :position + 1],
                                                            values_so_far[:, :, :position + 1])
            x = x + linear(mixed.reshape(1, width))
            x = x + linear(functional.gelu(linear(norm(x)), approximate="tanh"))
        return (norm(x) @ wte.t())[0]

    def __call__(self):
        self.position += 1
        if self.position == self.p["context"]:
            self.position = self.p["first"]
        with torch.inference_mode():
            logits = self.logits(self.position)
        return [logits, torch.tensor([self.position], dtype=torch.float64)]


OPERATIONS = {"gemm": gemm, "elementwise": elementwise, "reduce": reduce, "conv2d": conv2d,
              "attention": attention, "train": Train, "resnet": ResNet,
              "generate": Generate}


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
        for operation in self.runs:  # what has a state begins anew, untimed
            getattr(operation, "restart", lambda: None)()
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
