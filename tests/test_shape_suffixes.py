"""A name's shape suffix, lower-cased, is its term in the einsum: `x_BSD` is `bsd`."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llama3_jax"
FILES = sorted(path for room in ("kernels", "model") for path in (PACKAGE / room).rglob("*.py"))


def suffix(node):
    """`bsd` of a name x_BSD; None for anything else."""
    found = re.fullmatch(r"\w*_([A-Z][A-Z0-9]*)", node.id) if isinstance(node, ast.Name) else None
    return found and found.group(1).lower()


def einsum(node):
    """(terms, operand nodes) of a call whose first argument is an equation."""
    if not isinstance(node, ast.Call) or not node.args:
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    equation = node.args[0]
    if name not in ("einsum", "_dot", "linear") or not (isinstance(equation, ast.Constant) and isinstance(equation.value, str)):
        return None
    operands, result = equation.value.split("->")
    return operands.split(","), result, node.args[1:]


def mismatches(source):
    tree = ast.parse(source)
    wrong, checked = [], 0

    def compare(term, node):
        nonlocal checked
        if (letters := suffix(node)) is not None:
            checked += 1
            if letters != term:
                wrong.append(f"line {node.lineno}: {node.id} is {term!r} in the equation")

    for node in ast.walk(tree):
        if call := einsum(node):
            for term, operand in zip(call[0], call[2], strict=False):
                compare(term, operand)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        if targets and (call := einsum(strip(node.value))):
            for target in targets:
                compare(call[1], target)
    return wrong, checked


def strip(node):
    """The einsum inside `einsum(...) * scale` or `einsum(...).astype(...)`."""
    while einsum(node) is None:
        if isinstance(node, ast.BinOp):
            node = node.left
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "astype":
            node = node.func.value
        else:
            break
    return node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_agree_with_equations(path):
    wrong, _ = mismatches(path.read_text())
    assert not wrong


def test_there_is_something_to_check():
    assert sum(mismatches(path.read_text())[1] for path in FILES) > 20


def test_a_wrong_name_is_found():
    assert mismatches('y_BSF = jnp.einsum("bsd,df->bsf", x_BSD, w)') == ([], 2)
    wrong, _ = mismatches('y_BFS = 2\ny_BFS = jnp.einsum("bsd,df->bsf", x_SBD, w_FD).astype(a) * 2')
    assert len(wrong) == 3
