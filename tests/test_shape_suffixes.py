"""Arrays' names tell their shapes, and the code agrees with the names.

Checked where the source alone decides: einsum subscripts, `@`, `transpose` and
unpacked `.shape`. What has no plain name (an expression) is not checked.
"""

import ast
import pathlib
import re

import pytest

import fmjax.model

ROOT = pathlib.Path(__file__).parents[1]
PATHS = sorted(
  path
  for folder in ("model", "train", "eval")
  for path in (ROOT / "fmjax" / folder).glob("*.py")
)
ALPHABET = "".join(
  re.findall(r"(?:^|·) *([a-z]) ", fmjax.model.__doc__ or "", re.MULTILINE)
)


def name_of(node: ast.expr) -> str | None:
  """`table_vd` for table_vd, self.table_vd[...] and table_vd.astype(t)."""
  match node:
    case ast.Name(id=name):
      return name
    case ast.Attribute(attr="value" | "T" as attribute, value=value):
      name = name_of(value)
      if name and attribute == "T":
        stem, _, suffix = name.rpartition("_")
        return f"{stem}_{suffix[::-1]}"
      return name
    case ast.Attribute(attr=name):
      return name
    case ast.Subscript(value=value, slice=ast.Constant(value=constant)):
      return name_of(value) if constant is ... else None
    case ast.Call(func=ast.Attribute(attr="astype", value=value)):
      return name_of(value)
  return None


def suffix_of(node: ast.expr) -> str | None:
  """`vd` for an array named table_vd; None if it has no suffix."""
  stem, _, suffix = (name_of(node) or "").rpartition("_")
  return suffix if stem and suffix and set(suffix) <= set(ALPHABET) else None


def einsum_subscripts(node: ast.expr) -> tuple[list[str], str] | None:
  """The operands' and the result's letters, spaces and dots removed."""
  match node:
    case ast.Call(
      func=ast.Attribute(attr="einsum") | ast.Name(id="einsum"),
      args=[ast.Constant(value=str(text)), *_],
    ):
      inputs, _, output = re.sub(r"[ .]", "", text).partition("->")
      return inputs.split(","), output
  return None


def result_suffix(node: ast.expr) -> str | None:
  """What the letters of an expression's result are, where the source says."""
  if subscripts := einsum_subscripts(node):
    return subscripts[1]
  match node:
    case ast.BinOp(op=ast.MatMult(), left=left, right=right):
      a, b = suffix_of(left), suffix_of(right)
      if a and b and len(b) == 2:
        return a[:-1] + b[1:]
    case ast.Call(func=ast.Attribute(attr="transpose", value=value), args=args):
      a = suffix_of(value)
      axes = [arg.value for arg in args if isinstance(arg, ast.Constant)]
      if a and len(axes) == len(args) == len(a):
        return "".join(a[int(str(axis))] for axis in axes)
  return None


def disagreements(source: str) -> list[str]:
  """One line for each place where a name and the code tell two shapes."""
  found = []

  def check(node: ast.AST, expected: str, actual: str | None, what: str):
    if actual != expected:
      line = getattr(node, "lineno", 0)
      found.append(f"line {line}: {what} has {actual!r}, not {expected!r}")

  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.expr) and (subscripts := einsum_subscripts(node)):
      operands = node.args[1:]
      inputs, output = subscripts
      unknown = set("".join(inputs) + output) - set(ALPHABET)
      if unknown:
        found.append(f"line {node.lineno}: no axis is called {unknown}")
      for letters, operand in zip(inputs, operands, strict=True):
        if name_of(operand) and len(letters) > 1:
          check(node, letters, suffix_of(operand), ast.unparse(operand))
    match node:
      case ast.BinOp(op=ast.MatMult(), left=left, right=right):
        a, b = suffix_of(left), suffix_of(right)
        if a and b and len(b) == 2:
          check(node, a[-1], b[0], ast.unparse(node))
      case ast.Assign(targets=[ast.Name() as target], value=value):
        letters = result_suffix(value)
        if letters and len(letters) > 1:
          check(node, letters, suffix_of(target), target.id)
      case ast.Assign(
        targets=[ast.Tuple(elts=names)],
        value=ast.Attribute(attr="shape", value=value),
      ):
        letters = suffix_of(value)
        if letters and not any(isinstance(n, ast.Starred) for n in names):
          if len(letters) != len(names):
            check(node, letters, f"{len(names)} axes", ast.unparse(value))
          for letter, name in zip(letters, names, strict=False):
            if isinstance(name, ast.Name) and name.id in set(ALPHABET):
              check(node, letter, name.id, ast.unparse(value))
  return found


@pytest.mark.parametrize(
  "path", PATHS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_names_and_code_tell_the_same_shapes(path: pathlib.Path):
  assert disagreements(path.read_text()) == []


def test_the_alphabet_is_read_from_the_model_package():
  assert set("btsndhervcpqmwglk") <= set(ALPHABET)


@pytest.mark.parametrize(
  "line",
  [
    "y_btd = jnp.einsum('btd,df->btf', x_btd, w_df)",
    "y_btf = jnp.einsum('btd,df->btf', x_bsd, w_df)",
    "y_btf = jnp.einsum('btd,df->btf', x_btd, self.w_fd[...])",
    "y = jnp.einsum('nd,vd->nv', x_nd, table_vd)",
    "y_nv = jnp.einsum('nd,vd->nv', x, table_vd)",
    "y_nx = jnp.einsum('nd,xd->nx', x_nd, table)",
    "y_nv = x_nd @ table_vd",
    "y_nd = x_nd @ table_vd.T",
    "y_bthe = x_bthe.transpose(0, 2, 1, 3)",
    "b, d = x_bt.shape",
    "b, t = x_btd.shape",
  ],
)
def test_a_name_that_contradicts_the_code_is_found(line: str):
  assert disagreements(line)


@pytest.mark.parametrize(
  "line",
  [
    "y_btf = jnp.einsum('btd,df->btf', x_btd, self.w_df[...])",
    "y_nv = jnp.einsum('nd,vd->nv', x_nd.astype(dtype), table_vd)",
    "y_nv = x_nd @ table_vd.T",
    "y_bhte = x_bthe.transpose(0, 2, 1, 3)",
    "b, t = x_bt.shape",
    "total = jnp.einsum('n,n->', weight_n, loss_n)",
    "y_nv = jnp.einsum('nd,vd->nv', normalize(x), table_vd)",
  ],
)
def test_names_that_agree_are_accepted(line: str):
  assert disagreements(line) == []
