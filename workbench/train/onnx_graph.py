"""A small eager interpreter of ONNX graphs in PyTorch: enough for Kokoro-82M's int8 graph, on a GPU.

onnxruntime speaks that graph at about real time on two cores, and its quantised operators have no GPU kernels; here the
weights are dequantised once and products run in floats. ``DynamicQuantizeLinear`` therefore hands its input through
with scale 1 and zero point 0. Integers (shapes, indices) stay on the CPU, so that they never wait for the GPU.

Operators: onnx.ai's reference, opset 20, and onnxruntime's contributed ones (com.microsoft).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

ONNX_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
    11: torch.float64,
}  # fmt: skip
SMALL_INTEGER_TENSOR = 4096  # larger ones are weights and go to the device
STILL_AIR = 1e-9  # keeps atan(imag / real) of silence a number


class Graph:
    """A graph as a function of its named inputs; one utterance a call, as the graph is.

    Parameters
    ----------
    path
        The .onnx file.
    device
        Where floats live.
    """

    def __init__(self, path: Path, device: str | torch.device) -> None:
        self.device = torch.device(device)
        model = onnx.load(path)
        self.outputs = [output.name for output in model.graph.output]
        self._cache: dict[str, Tensor | torch.nn.LSTM] = {}
        self._constants = {tensor.name: self._constant(tensor) for tensor in model.graph.initializer}
        self._nodes = [
            (node.op_type, list(node.input), list(node.output), _attributes(node)) for node in model.graph.node
        ]
        self._fold()
        last_use = {name: index for index, (_, inputs, _, _) in enumerate(self._nodes) for name in inputs if name}
        self._spent: dict[int, list[str]] = {}
        for name, index in last_use.items():
            if name not in self._constants and name not in self.outputs:
                self._spent.setdefault(index, []).append(name)

    @torch.inference_mode()
    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        """The graph's outputs, in order."""
        values = {**self._constants, **inputs}
        for index, node in enumerate(self._nodes):
            values.update(self._run(node, values))
            for name in self._spent.get(index, ()):
                values.pop(name, None)
        return [values[name] for name in self.outputs]

    def _constant(self, tensor: onnx.TensorProto) -> Tensor:
        value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        heavy = value.numel() > 1 if value.is_floating_point() else value.numel() > SMALL_INTEGER_TENSOR
        return value.to(self.device) if heavy else value

    @torch.inference_mode()
    def _fold(self) -> None:
        """Compute once what no input reaches."""
        left = []
        for node in self._nodes:
            op, inputs, _, _ = node
            fixed = inputs and all(not name or name in self._constants for name in inputs)
            if fixed and op != "DynamicQuantizeLSTM":
                self._constants.update(self._run(node, self._constants))
            else:
                left.append(node)
        self._nodes = left

    def _run(self, node: tuple, values: dict[str, Tensor]) -> dict[str, Tensor]:
        op, names, outputs, attributes = node
        inputs = [values[name] if name else None for name in names]
        try:
            if op in ELEMENTWISE:
                got = ELEMENTWISE[op](*self._together(inputs))
            else:
                got = getattr(self, f"_{op}")(inputs, attributes, names, outputs)
        except Exception as error:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in inputs]
            raise RuntimeError(f"{op} on {shapes} with {attributes}: {error}") from error
        got = got if isinstance(got, list | tuple) else (got,)
        return {name: tensor for name, tensor in zip(outputs, got, strict=False) if name}

    def _together(self, tensors: list[Tensor | None]) -> list[Tensor | None]:
        """Operands on one device: where one is on the GPU the others follow, scalars apart."""
        if self.device.type == "cpu" or not any(t is not None and t.is_cuda and t.dim() for t in tensors):
            return tensors
        return [t if t is None or t.is_cuda or not t.dim() else t.to(self.device) for t in tensors]

    # shapes --------------------------------------------------------------------------------------------------------
    def _Cast(self, x, a, *_):
        return x[0].to(ONNX_TYPES[a["to"]])

    def _Shape(self, x, *_):
        return torch.tensor(x[0].shape, dtype=torch.int64)

    def _Reshape(self, x, *_):
        return x[0].reshape([x[0].shape[axis] if size == 0 else size for axis, size in enumerate(x[1].tolist())])

    def _Unsqueeze(self, x, *_):
        y, axes = x[0], x[1].reshape(-1).tolist()
        rank = y.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            y = y.unsqueeze(axis)
        return y

    def _Squeeze(self, x, *_):
        return x[0].squeeze(tuple(x[1].reshape(-1).tolist()))

    def _Transpose(self, x, a, *_):
        return x[0].permute(a.get("perm") or tuple(reversed(range(x[0].dim()))))

    def _Concat(self, x, a, *_):
        return torch.cat(self._together(x), a["axis"])

    def _Split(self, x, a, _, outputs):
        axis = a.get("axis", 0)
        sizes = x[1].tolist() if len(x) > 1 and x[1] is not None else x[0].shape[axis] // len(outputs)
        return x[0].split(sizes, axis)

    def _Gather(self, x, a, *_):
        data, index, axis = x[0], x[1], a.get("axis", 0)
        if not index.dim():
            return data.select(axis, int(index))
        index = index.to(data.device)
        index = torch.where(index < 0, index + data.shape[axis], index)
        found = data.index_select(axis, index.reshape(-1))
        return found.reshape(*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])

    def _Slice(self, x, *_):
        y, starts, ends = x[0], *(part.reshape(-1).tolist() for part in x[1:3])
        axes = x[3].reshape(-1).tolist() if len(x) > 3 and x[3] is not None else range(len(starts))
        steps = x[4].reshape(-1).tolist() if len(x) > 4 and x[4] is not None else [1] * len(starts)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            kept = range(y.shape[axis])[slice(start, None if step < 0 and end < -y.shape[axis] else end, step)]
            if step == 1:
                y = y.narrow(axis, kept.start, len(kept))
            else:
                y = y.index_select(axis, torch.tensor(kept, device=y.device))
        return y

    def _ConstantOfShape(self, x, a, *_):
        value = a.get("value")
        filled = torch.full(x[0].tolist(), 0.0 if value is None else value.item(), dtype=getattr(value, "dtype", None))
        return filled.to(self.device) if filled.is_floating_point() else filled

    def _Expand(self, x, *_):
        return x[0].expand(torch.broadcast_shapes(x[0].shape, tuple(x[1].tolist())))

    def _Range(self, x, *_):
        return torch.arange(*(bound.item() for bound in x), dtype=x[0].dtype)

    def _CumSum(self, x, *_):
        return x[0].cumsum(int(x[1]))

    def _NonZero(self, x, *_):
        return torch.nonzero(x[0]).T.contiguous()

    def _ScatterND(self, x, *_):
        data, index = x[0].clone(), x[1].to(x[0].device)
        data[tuple(index.unbind(-1))] = x[2].to(data.device)
        return data

    def _Pad(self, x, a, *_):
        before, after = x[1].tolist()[: x[0].dim()], x[1].tolist()[x[0].dim() :]
        sizes = [size for axis in reversed(range(x[0].dim())) for size in (before[axis], after[axis])]
        if a.get("mode", b"constant") == b"constant":
            return F.pad(x[0], sizes, value=float(x[2]) if len(x) > 2 and x[2] is not None else 0.0)
        while len(sizes) > 2 and not any(sizes[-2:]):
            sizes = sizes[:-2]
        return F.pad(x[0], sizes, mode="reflect")

    def _Resize(self, x, a, *_):
        data, scale = x[0], float(x[2][-1])
        if a["mode"] == b"nearest":
            size = int(np.floor(data.shape[-1] * scale))
            source = torch.arange(size, device=data.device).div(scale).floor().long().clamp(max=data.shape[-1] - 1)
            return data.index_select(-1, source)
        return F.interpolate(data, scale_factor=scale, mode="linear", recompute_scale_factor=False)

    # reductions and norms ------------------------------------------------------------------------------------------
    def _ReduceMean(self, x, a, *_):
        axes = x[1].reshape(-1).tolist() if len(x) > 1 and x[1] is not None else a.get("axes")
        return x[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))

    def _ReduceSum(self, x, a, *_):
        return x[0].sum(x[1].reshape(-1).tolist(), keepdim=bool(a.get("keepdims", 1)))

    def _Softmax(self, x, a, *_):
        return x[0].softmax(a.get("axis", -1))

    def _LeakyRelu(self, x, a, *_):
        return F.leaky_relu(x[0], a.get("alpha", 0.01))

    def _LayerNormalization(self, x, a, *_):
        return F.layer_norm(x[0], x[1].shape, *x[1:3], a.get("epsilon", 1e-5))

    def _SkipLayerNormalization(self, x, a, *_):
        return F.layer_norm(x[0] + x[1], x[2].shape, x[2], x[3], a.get("epsilon", 1e-5))

    def _FastGelu(self, x, *_):
        return F.gelu(x[0] + x[1] if len(x) > 1 and x[1] is not None else x[0], approximate="tanh")

    # products ------------------------------------------------------------------------------------------------------
    def _FusedMatMul(self, x, a, *_):
        left, right = self._together(x)
        left = left.transpose(-1, -2) if a.get("transA") else left
        right = right.transpose(-1, -2) if a.get("transB") else right
        return a.get("alpha", 1.0) * (left.to(right.dtype) @ right)

    def _DynamicQuantizeLinear(self, x, *_):
        return x[0], torch.tensor(1.0), torch.tensor(0, dtype=torch.uint8)

    def _DequantizeLinear(self, x, *_):
        zero = 0 if len(x) < 3 or x[2] is None else x[2].to(x[0].device).float()
        return ((x[0].float() - zero) * x[1].to(x[0].device)).to(self.device)

    def _weight(self, name: str, stored: Tensor, zero_point: Tensor | None) -> Tensor:
        if name not in self._cache:
            zero = 0 if zero_point is None else zero_point.to(self.device).float()
            self._cache[name] = stored.to(self.device).float() - zero
        return self._cache[name]

    def _MatMulInteger(self, x, _, names, *__):
        return x[0] @ self._weight(names[1], x[1], x[3] if len(x) > 3 else None)

    def _ConvInteger(self, x, a, names, *_):
        weight = self._weight(names[1], x[1], x[3] if len(x) > 3 else None)
        return self._convolution(F.conv1d, [x[0], weight], a)

    def _Conv(self, x, a, *_):
        return self._convolution(F.conv1d, x, a)

    def _convolution(self, convolve: Callable, x: list, a: dict) -> Tensor:
        bias = x[2] if len(x) > 2 else None
        before, after = a["pads"]
        return convolve(
            F.pad(x[0], (before, after)), x[1], bias, a["strides"], 0, dilation=a["dilations"], groups=a["group"]
        )

    def _ConvTranspose(self, x, a, *_):
        bias, (before, _after) = x[2] if len(x) > 2 else None, a["pads"]
        extra = a.get("output_padding", [0])
        return F.conv_transpose1d(x[0], x[1], bias, a["strides"], before, extra, a["group"], a["dilations"])

    def _STFT(self, x, a, *_):
        length = int(x[3]) if len(x) > 3 and x[3] is not None else len(x[2])
        pieces = x[0].flatten(1).unfold(-1, length, int(x[1])) * x[2].to(x[0].device)
        spectrum = torch.fft.rfft(pieces) if a.get("onesided", 1) else torch.fft.fft(pieces)
        return torch.view_as_real(spectrum + STILL_AIR)

    def _DynamicQuantizeLSTM(self, x, a, names, _):
        if names[1] not in self._cache:
            self._cache[names[1]] = _lstm(x, a["hidden_size"]).to(self.device).eval()
        found, state = self._cache[names[1]](x[0])
        return found.unflatten(2, (-1, a["hidden_size"])).transpose(1, 2), *state


def _attributes(node: onnx.NodeProto) -> dict:
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {
        name: torch.from_numpy(np.array(numpy_helper.to_array(value))) if isinstance(value, onnx.TensorProto) else value
        for name, value in found.items()
    }


def _divide(left: Tensor, right: Tensor) -> Tensor:
    return left / right if left.is_floating_point() else torch.div(left, right, rounding_mode="trunc")


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    return base ** (exponent.to(base.dtype) if exponent.dim() else float(exponent))


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x.clamp(None if low is None else float(low), None if high is None else float(high))


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "Mul": torch.mul, "Add": torch.add, "Sub": torch.sub, "Div": _divide, "Pow": _power, "MatMul": torch.matmul,
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "And": torch.logical_and,
    "Where": torch.where, "Sqrt": torch.sqrt, "Sin": torch.sin, "Cos": torch.cos, "Exp": torch.exp, "Atan": torch.atan,
    "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Floor": torch.floor, "Round": torch.round, "Clip": _clip,
}  # fmt: skip


def _lstm(x: list[Tensor], hidden: int) -> torch.nn.LSTM:
    """ONNX's dynamically quantised LSTM as torch's: weights [directions, in, 4 hidden], gates i, o, f, c."""

    def dequantised(weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        def a_direction(value: Tensor) -> Tensor:
            value = value.float().cpu()
            return value.reshape(value.shape[0], 1, -1) if value.numel() > 1 else value.reshape(1, 1, 1)

        return (weight.float().cpu() - a_direction(zero_point)) * a_direction(scale)

    def gates(rows: Tensor) -> Tensor:
        entry, output, forget, cell = rows.chunk(4)
        return torch.cat([entry, forget, cell, output])

    inner, recurrent = dequantised(x[1], x[8], x[9]), dequantised(x[2], x[10], x[11])
    bias = x[3].float().cpu()
    lstm = torch.nn.LSTM(inner.shape[1], hidden, bidirectional=len(inner) == 2)
    with torch.no_grad():
        for direction in range(len(inner)):
            suffix = "_l0" + ("_reverse" if direction else "")
            parts = {
                "weight_ih": inner[direction].T, "weight_hh": recurrent[direction].T,
                "bias_ih": bias[direction, : 4 * hidden], "bias_hh": bias[direction, 4 * hidden :],
            }  # fmt: skip
            for name, part in parts.items():
                getattr(lstm, name + suffix).copy_(gates(part))
    return lstm
