"""What the machine can do at most: matrix products and reads of memory."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops

CHAIN = 4  # products one after the other, so that moving the input in and out counts little


class Limits:
    """Peaks over several runs: the best one is what the machine can do."""

    def load(self) -> dict[str, str]:
        return {"precision": f"{torch.get_num_threads()} threads"}

    def gemm(self, size: int, repeats: int) -> dict[str, float]:
        """Multiply-adds counted as two, per second, by engine and precision."""
        operations = 2.0 * size**3
        left, right = torch.randn(size, size), torch.randn(size, size)
        left16, right16 = left.bfloat16(), right.bfloat16()
        found = {
            "torch f32": operations / _best(lambda: left @ right, repeats),
            "torch bf16": operations / _best(lambda: left16 @ right16, repeats),
        }
        for precision in ("f32", "bf16", "int8"):
            run = _openvino(size, precision)
            found[f"openvino {precision}"] = CHAIN * operations / _best(run, repeats)
        return found

    def bandwidth(self, mebibytes: int, repeats: int) -> dict[str, float]:
        """Bytes per second over all cores: read by a sum, read and written by a copy."""
        source = torch.ones(mebibytes * 2**20 // 4)
        target = torch.empty_like(source)
        size = float(source.numel() * 4)
        return {
            "read": size / _best(source.sum, repeats),
            "copy": 2 * size / _best(lambda: target.copy_(source), repeats),
        }


def _openvino(size: int, precision: str) -> Callable[[], Any]:
    """A chain of products as OpenVINO runs those of an encoder."""
    draw = np.random.default_rng(0)
    rows = ops.parameter([size, size], np.float32)
    value = rows
    for _ in range(CHAIN):
        matrix = draw.standard_normal((size, size)).astype(np.float32) / size**0.5
        weights = ops.constant(matrix)
        if precision == "int8":
            value = _quantised(value, 256)
            weights = _quantised(weights, 255)
        value = ops.matmul(value, weights, False, True)
    model = ov.Model([value], [rows])
    hint = "f32" if precision == "f32" else "bf16"
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(draw.standard_normal((size, size)).astype(np.float32)))
    return request.infer


def _quantised(value: ov.Node, levels: int) -> ov.Node:
    """To int8 and back: OpenVINO fuses this into an int8 product."""
    ends = [ops.constant(np.float32(end)) for end in (-4.0, 4.0)]
    return ops.fake_quantize(value, ends[0], ends[1], ends[0], ends[1], levels)


def _best(run: Callable[[], Any], repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
