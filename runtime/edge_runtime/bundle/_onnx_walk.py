"""What an ONNX file consists of, read from its bytes without trusting any number in it; judged elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from edge_runtime.bundle import _onnx_schema as schema
from edge_runtime.bundle._onnx_tensor import TENSOR_TYPES, ConstantValues, read_tensor, text
from edge_runtime.bundle._wire import Budget, count_varints, fields, floats, signed, varints
from edge_runtime.bundle.limits import Limits
from edge_runtime.errors import ModelRefusedError

__all__ = ["ModelFacts", "NodeFacts", "TensorFacts", "operator_name", "walk_model"]

# operators whose attributes or constant inputs set the size of their output
GROWING = frozenset({"AveragePool", "Conv", "ConvTranspose", "MaxPool", "Pad", "Resize"})
LONGEST_INTS = 64  # numbers in an attribute of a growing operator; 2 * rank are used
View = memoryview


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """An input or output of the graph: type ("float32", ...), dims (None where not a number), None without shape."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """A node of a growing operator: its input names and its numeric attributes."""

    operator: str
    inputs: tuple[str, ...]
    numbers: ConstantValues


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """An ONNX model at a glance.

    `operators` counts nodes by operator, subgraphs and functions included; names of a domain other than ONNX's own
    are written "domain::Operator". `inputs` leaves out initializers. `initializer_bytes` is declared size, which
    equals the stored size. `growing` and `constants` are the nodes and small constants that set tensor sizes.
    """

    ir_version: int
    opset: int
    imports: dict[str, int]
    operators: Counter[str]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    nodes: int
    initializers: int
    initializer_bytes: int
    subgraphs: int
    functions: int
    growing: tuple[NodeFacts, ...]
    constants: ConstantValues


def operator_name(domain: str, operator: str) -> str:
    """How an operator is written: bare in ONNX's own domain, else "domain::Operator"."""
    return operator if domain in ("", "ai.onnx") else f"{domain}::{operator}"


def walk_model(data: bytes, limits: Limits) -> ModelFacts:
    """The facts of the model in `data`, whatever its operators.

    Raises `ModelRefusedError` on bytes that are not one well-formed model, external data, or a number over its cap.
    """
    return _Walk(limits).model(memoryview(data))


class _Walk:
    """Counters of one walk; every method takes the bytes of one message."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.budget = Budget(limits.fields)
        self.operators: Counter[str] = Counter()
        self.nodes = self.initializers = self.initializer_bytes = self.subgraphs = self.functions = 0
        self.growing: list[NodeFacts] = []
        self.constants: ConstantValues = {}

    def model(self, data: View) -> ModelFacts:
        imports: dict[str, int] = {}
        graph, ir_version = None, 0
        for name, value in fields(data, schema.MODEL, self.budget):
            if isinstance(value, int):
                ir_version = value if name == "ir_version" else ir_version
            elif name == "graph":
                graph = value
            elif name == "opset_import":
                self.opset(value, imports)
            elif name == "functions":
                self.function(value)
            elif name == "training_info":
                raise ModelRefusedError("the model carries training information; export it for inference")
        if graph is None or "" not in imports:
            raise ModelRefusedError("the bytes are no ONNX model: no graph, or no opset of the ONNX domain")
        inputs, outputs = self.graph(graph, 0)
        return ModelFacts(
            ir_version=ir_version, opset=imports[""], imports=imports, operators=self.operators, inputs=inputs,
            outputs=outputs, nodes=self.nodes, initializers=self.initializers, subgraphs=self.subgraphs,
            initializer_bytes=self.initializer_bytes, functions=self.functions, growing=tuple(self.growing),
            constants=self.constants,
        )  # fmt: skip

    def opset(self, data: View, imports: dict[str, int]) -> None:
        domain, version = "", 0
        for name, value in fields(data, schema.OPSET, self.budget):
            if isinstance(value, int):
                version = signed(value)
            elif name == "domain":
                domain = text(value)
        domain = "" if domain == "ai.onnx" else domain
        if domain in imports:
            raise ModelRefusedError(f"the model imports the opset of domain {domain!r} twice")
        imports[domain] = version

    def function(self, data: View) -> None:
        self.functions += 1
        for name, value in fields(data, schema.FUNCTION, self.budget):
            if isinstance(value, int):
                continue
            if name == "node":
                self.node(value, 1)
            elif name == "attribute_proto":
                self.attribute(value, 1, "")
            elif name == "value_info":
                self.value_info(value)

    def graph(self, data: View, depth: int) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
        if depth > self.limits.depth:
            raise ModelRefusedError(f"graphs are nested more than {self.limits.depth} deep (Limits.depth)")
        inputs: list[TensorFacts] = []
        outputs: list[TensorFacts] = []
        initialized: list[str] = []
        defined: set[str] = set()
        for name, value in fields(data, schema.GRAPH, self.budget):
            if isinstance(value, int):
                continue
            if name == "node":
                self.define(self.node(value, depth), defined)
            elif name == "initializer":
                initialized.append(self.initializer(value))
            elif name == "sparse_initializer":
                self.sparse(value)
            elif name in ("input", "output", "value_info"):
                facts = self.value_info(value)
                if name != "value_info":
                    (inputs if name == "input" else outputs).append(facts)
        self.define(initialized, defined)
        stored = set(initialized)
        return tuple(fact for fact in inputs if fact.name not in stored), tuple(outputs)

    def define(self, names: list[str], defined: set[str]) -> None:
        """Every value of a graph is written once (static single assignment), so a constant is what it seems."""
        for name in filter(None, names):
            if name in defined:
                raise ModelRefusedError(f"the model defines the value {name!r} twice")
            defined.add(name)

    def initializer(self, data: View) -> str:
        tensor = read_tensor(data, self.limits, self.budget)
        self.initializers += 1
        self.initializer_bytes += tensor.size
        if self.initializers > self.limits.tensors:
            raise ModelRefusedError(f"the model has more than {self.limits.tensors} initializers (Limits.tensors)")
        if tensor.values is not None:
            self.constants[tensor.name] = tensor.values
        return tensor.name

    def sparse(self, data: View) -> None:
        """Walked for external data, then refused: nothing on the allow-list takes a sparse tensor."""
        for name, value in fields(data, schema.SPARSE, self.budget):
            if name in ("values", "indices") and not isinstance(value, int):
                read_tensor(value, self.limits, self.budget)
        raise ModelRefusedError("the model holds a sparse tensor; store it dense")

    def node(self, data: View, depth: int) -> list[str]:
        """Walk one node; returns the names it defines."""
        self.nodes += 1
        if self.nodes > self.limits.nodes:
            raise ModelRefusedError(f"the model has more than {self.limits.nodes} nodes (Limits.nodes)")
        operator, domain = "", ""
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[View] = []
        for name, value in fields(data, schema.NODE, self.budget):
            if isinstance(value, int):
                continue
            if name == "op_type":
                operator = text(value)
            elif name == "domain":
                domain = text(value)
            elif name == "attribute":
                attributes.append(value)
            elif name in ("input", "output"):
                (inputs if name == "input" else outputs).append(text(value))
        full = operator_name(domain, operator)
        self.operators[full] += 1
        found = self.attributes(attributes, depth, full)
        if full in GROWING:
            self.growing.append(NodeFacts(operator=full, inputs=tuple(inputs), numbers=found))
        if full == "Constant" and len(found) == len(attributes) == len(outputs) == 1:
            self.constants[outputs[0]] = next(iter(found.values()))
        return outputs

    def attributes(self, attributes: list[View], depth: int, operator: str) -> ConstantValues:
        """The numbers in a node's attributes by name, where the operator is one whose numbers are judged."""
        names: set[str] = set()
        found: ConstantValues = {}
        for data in attributes:
            name, values = self.attribute(data, depth, operator)
            if name in names:
                raise ModelRefusedError(
                    f"a {operator} has the attribute {name!r} twice; parsers differ on what that means"
                )
            names.add(name)
            if operator in GROWING or operator == "Constant":
                found[name] = values
        return found

    def attribute(self, data: View, depth: int, operator: str) -> tuple[str, tuple[float, ...]]:
        """Walk one attribute; its name, and its numbers: a tensor that is not small gives one NaN."""
        name, count = "", 0
        values: list[float] = []
        for field, value in fields(data, schema.ATTRIBUTE, self.budget):
            if isinstance(value, int) or field == "ints":
                if field == "type":
                    continue
                count += count_varints(value)
                values += varints(value) if count <= LONGEST_INTS else ()
            elif field == "floats":
                count += len(value) // 4
                values += floats(value) if count <= LONGEST_INTS else ()
            elif field == "name":
                name = text(value)
            else:
                values += self.nested(field, value, depth)
        if count > LONGEST_INTS and operator in GROWING:
            raise ModelRefusedError(f"a {operator} has {count} numbers in {name!r}; at most {LONGEST_INTS} are allowed")
        return name, tuple(values) if count <= LONGEST_INTS else (math.nan,)

    def nested(self, field: str, value: View, depth: int) -> tuple[float, ...]:
        """Walk the tensors and graphs of an attribute; the values of a small tensor, one NaN for a larger one."""
        if field in ("t", "tensors"):
            values = read_tensor(value, self.limits, self.budget).values
            return (math.nan,) if values is None else values
        if field in ("g", "graphs"):
            self.subgraphs += 1
            self.graph(value, depth + 1)
        elif field in ("sparse_tensor", "sparse_tensors"):
            self.sparse(value)
        return ()

    def value_info(self, data: View) -> TensorFacts:
        name, facts = "", None
        for field, value in fields(data, schema.VALUE_INFO, self.budget):
            if isinstance(value, int):
                continue
            if field == "name":
                name = text(value)
            elif field == "type":
                facts = self.type(value)
        dtype, shape = facts or ("unknown", None)
        return TensorFacts(name=name, dtype=dtype, shape=shape)

    def type(self, data: View) -> tuple[str, tuple[int | None, ...] | None] | None:
        """Element type and shape; None for a type left open. Sequences, maps and optionals are refused."""
        found = None
        for field, value in fields(data, schema.TYPE, self.budget):
            if field == "denotation" or isinstance(value, int):
                continue
            if field != "tensor_type" or found:
                raise ModelRefusedError(f"the model has a value of {field.replace('_', ' ')}; only tensors are allowed")
            dtype, shape = 0, None
            for part, inner in fields(value, schema.TENSOR_TYPE, self.budget):
                if isinstance(inner, int):
                    dtype = inner
                elif part == "shape":
                    shape = self.shape(inner)
            found = (TENSOR_TYPES[dtype].name if dtype in TENSOR_TYPES else f"type {dtype}", shape)
        return found

    def shape(self, data: View) -> tuple[int | None, ...]:
        dims: list[int | None] = []
        for _, value in fields(data, schema.SHAPE, self.budget):
            if isinstance(value, int):
                continue
            size = None
            for name, inner in fields(value, schema.DIMENSION, self.budget):
                if name == "dim_value" and isinstance(inner, int):
                    size = signed(inner)
            dims.append(size)
            if len(dims) > self.limits.rank or (size is not None and size < 0):
                raise ModelRefusedError(
                    f"the model declares dims {dims}; not negative, at most {self.limits.rank} axes"
                )
        if math.prod(size for size in dims if size) > self.limits.elements:
            raise ModelRefusedError(f"the model declares a tensor of dims {dims}, over {self.limits.elements} elements")
        return tuple(dims)
