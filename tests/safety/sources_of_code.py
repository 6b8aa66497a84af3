"""What in a module could run code out of a file, or hand text to a shell: found in its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile", "zipfile", "pty"}
"""Not to be imported, but for an error's class of pickle's."""
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.jit.load", "torch.package.PackageImporter",
    "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.Loader",
    "shutil.unpack_archive", "importlib.import_module", "runpy.run_path", "tune.Tuner.restore", "Tuner.restore",
    "torch.hub.load", "subprocess.getoutput",
}  # fmt: skip
TORCH_LOAD = "models/plain_pickles.py"
"""The one module that reads PyTorch's files."""


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or attribute; "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else f".{node.attr}"
    return ""


def found(text: str, module: str) -> Iterator[tuple[int, str]]:
    """(line, what) of everything in a module that may not be there."""
    tree = ast.parse(text)
    distrusting = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict) and _distrusts(node.value)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, f"import {a.name}") for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield from (
                (node.lineno, f"from {node.module} import {a.name}") for a in node.names if a.name != "UnpicklingError"
            )
        elif isinstance(node, ast.Attribute) and dotted(node) in CALLS:
            yield node.lineno, dotted(node)
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _call(node, module, distrusting))
        elif isinstance(node, ast.Dict) and _trusts(node):
            yield node.lineno, "trust_remote_code"


def _call(node: ast.Call, module: str, distrusting: set[str]) -> Iterator[str]:
    name, given = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    if isinstance(node.func, ast.Name) and name in CALLS:
        yield name
    if name == "torch.load" and (module != TORCH_LOAD or not _is(given.get("weights_only"), True)):
        yield "torch.load"
    if name in {"np.load", "numpy.load"} and "allow_pickle" in given and not _is(given["allow_pickle"], False):
        yield "np.load with pickles"
    if name in {"yaml.load", "yaml.compose"} and dotted(given.get("Loader", node)) not in {
        "_Loader",
        "yaml.SafeLoader",
    }:
        yield f"{name} without a safe loader"
    if "shell" in given and not _is(given["shell"], False):
        yield "shell"
    if name.endswith(".extractall") and "filter" not in given:
        yield "an archive without a filter"
    if "trust_remote_code" in given and not _is(given["trust_remote_code"], False):
        yield "trust_remote_code"
    family = name.rpartition(".")[0].split(".")[-1]
    if name.endswith((".from_pretrained", ".from_config")) and (
        family.startswith("Auto") or family in {"family", "CLIPModel"}
    ):
        spread = {dotted(keyword.value) for keyword in node.keywords if keyword.arg is None}
        if "trust_remote_code" not in given and not spread & distrusting:
            yield f"{name} without trust_remote_code=False"


def _is(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _distrusts(node: ast.Dict) -> bool:
    return any(_key(key) and _is(value, False) for key, value in zip(node.keys, node.values, strict=True))


def _trusts(node: ast.Dict) -> bool:
    return any(_key(key) and not _is(value, False) for key, value in zip(node.keys, node.values, strict=True))


def _key(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value == "trust_remote_code"
