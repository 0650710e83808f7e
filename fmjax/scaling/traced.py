"""Matrix-product FLOPs of any function, read off its jaxpr.

The formulas in count.py are tested against this walk. XLA's own cost analysis
counts the body of a loop once, so it cannot check a scanned model.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def jaxpr_flops(fn: Callable, *args) -> int:
  """FLOPs of every `dot_general` that one call of `fn(*args)` executes.

  A product of [m, k] and [k, n] is 2·m·k·n; additions elsewhere are not
  counted. Scan bodies are multiplied by their length, recomputation under
  `jax.checkpoint` is counted as often as it runs, a `cond` is its costliest
  branch. `args` may be abstract (`jax.ShapeDtypeStruct`).

  Raises:
    ValueError: a `while` loop holds matrix products: their number depends on
      the values.
  """
  return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
  return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation) -> int:
  params = equation.params
  match equation.primitive.name:
    case "dot_general":
      return _dot_general(equation)
    case "conv_general_dilated":
      raise ValueError(
        f"convolution at {equation.source_info.name_stack}: only matrix"
        " products are counted; write it as one or extend fmjax.scaling.traced"
      )
    case "scan":
      return params["length"] * _count(params["jaxpr"].jaxpr)
    case "cond":
      return max(_count(branch.jaxpr) for branch in params["branches"])
    case "while":
      flops = sum(_count(inner) for inner in _inner(params))
      if flops:
        raise ValueError(
          "a while loop holds matrix products, so its FLOPs depend on the"
          " values; use jax.lax.scan or a fori_loop of static length"
        )
      return 0
    case "shard_map":
      # The body is one device's share.
      devices = math.prod(
        size
        for name, size in params["mesh"].shape.items()
        if name in params["newly_manual_axes"]
      )
      return devices * sum(_count(inner) for inner in _inner(params))
    case _:
      # jit, remat, custom_jvp, custom_vjp and the like run their body once.
      return sum(_count(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
  found = []
  for value in params.values():
    for leaf in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(leaf, core.ClosedJaxpr):
        found.append(leaf.jaxpr)
      elif isinstance(leaf, core.Jaxpr):
        found.append(leaf)
  return found


def _dot_general(equation) -> int:
  left, right = (operand.aval.shape for operand in equation.invars)
  (_, right_inner), (_, right_batch) = equation.params["dimension_numbers"]
  rows = math.prod(left)  # batch, free and contracted axes of the left side
  columns = math.prod(
    size
    for axis, size in enumerate(right)
    if axis not in right_inner and axis not in right_batch
  )
  return 2 * rows * columns


def xla_flops(fn: Callable, *args) -> float:
  """XLA's own count for `fn(*args)`, of a twin whose scans are unrolled.

  It is shown beside the exact count: XLA also counts additions, exponentials
  and the like, and it would count the body of a loop once. Nothing is compiled
  or run.
  """
  closed = jax.make_jaxpr(fn)(*args)
  twin = core.jaxpr_as_fun(
    core.ClosedJaxpr(_unrolled(closed.jaxpr), closed.consts)
  )
  leaves = jax.tree.leaves(args)
  analysis = jax.jit(twin).lower(*leaves).cost_analysis() or {}
  return float(analysis.get("flops", "nan"))


def _unrolled(jaxpr: core.Jaxpr) -> core.Jaxpr:
  def change(value):
    if isinstance(value, core.ClosedJaxpr):
      return core.ClosedJaxpr(_unrolled(value.jaxpr), value.consts)
    if isinstance(value, core.Jaxpr):
      return _unrolled(value)
    if type(value) is tuple:  # not the named ones, which hold no jaxpr
      return tuple(change(each) for each in value)
    return value

  equations = []
  for equation in jaxpr.eqns:
    params = {key: change(value) for key, value in equation.params.items()}
    if equation.primitive.name == "scan":
      params["unroll"] = params["length"]
    equations.append(equation.replace(params=params))
  return jaxpr.replace(eqns=equations)
