"""The messages of ONNX (onnx.proto, IR version 14) that the walker reads: field number, name, wire type."""

from __future__ import annotations

from edge_runtime.bundle._wire import FIXED32, FIXED64, LEN, VARINT, Field, Message

__all__ = [
    "ATTRIBUTE", "DIMENSION", "FUNCTION", "GRAPH", "MODEL", "NODE", "OPSET", "SHAPE", "SPARSE", "TENSOR",
    "TENSOR_TYPE", "TYPE", "VALUE_INFO",
]  # fmt: skip


def _one(name: str, wire: int = LEN) -> Field:
    return Field(name, wire)


def _many(name: str, wire: int = LEN) -> Field:
    return Field(name, wire, repeated=True)


MODEL = Message("ModelProto", {
    1: _one("ir_version", VARINT), 2: _one("producer_name"), 3: _one("producer_version"), 4: _one("domain"),
    5: _one("model_version", VARINT), 6: _one("doc_string"), 7: _one("graph"), 8: _many("opset_import"),
    14: _many("metadata_props"), 20: _many("training_info"), 25: _many("functions"), 26: _many("configuration"),
})  # fmt: skip
OPSET = Message("OperatorSetIdProto", {1: _one("domain"), 2: _one("version", VARINT)})
GRAPH = Message("GraphProto", {
    1: _many("node"), 2: _one("name"), 5: _many("initializer"), 10: _one("doc_string"), 11: _many("input"),
    12: _many("output"), 13: _many("value_info"), 14: _many("quantization_annotation"),
    15: _many("sparse_initializer"), 16: _many("metadata_props"),
})  # fmt: skip
NODE = Message("NodeProto", {
    1: _many("input"), 2: _many("output"), 3: _one("name"), 4: _one("op_type"), 5: _many("attribute"),
    6: _one("doc_string"), 7: _one("domain"), 8: _one("overload"), 9: _many("metadata_props"),
    10: _many("device_configurations"),
})  # fmt: skip
ATTRIBUTE = Message("AttributeProto", {
    1: _one("name"), 2: _one("f", FIXED32), 3: _one("i", VARINT), 4: _one("s"), 5: _one("t"), 6: _one("g"),
    7: _many("floats", FIXED32), 8: _many("ints", VARINT), 9: _many("strings"), 10: _many("tensors"),
    11: _many("graphs"), 13: _one("doc_string"), 14: _one("tp"), 15: _many("type_protos"), 20: _one("type", VARINT),
    21: _one("ref_attr_name"), 22: _one("sparse_tensor"), 23: _many("sparse_tensors"),
})  # fmt: skip
TENSOR = Message("TensorProto", {
    1: _many("dims", VARINT), 2: _one("data_type", VARINT), 3: _one("segment"), 4: _many("float_data", FIXED32),
    5: _many("int32_data", VARINT), 6: _many("string_data"), 7: _many("int64_data", VARINT), 8: _one("name"),
    9: _one("raw_data"), 10: _many("double_data", FIXED64), 11: _many("uint64_data", VARINT), 12: _one("doc_string"),
    13: _many("external_data"), 14: _one("data_location", VARINT), 16: _many("metadata_props"),
})  # fmt: skip
SPARSE = Message("SparseTensorProto", {1: _one("values"), 2: _one("indices"), 3: _many("dims", VARINT)})
FUNCTION = Message("FunctionProto", {
    1: _one("name"), 4: _many("input"), 5: _many("output"), 6: _many("attribute"), 7: _many("node"),
    8: _one("doc_string"), 9: _many("opset_import"), 10: _one("domain"), 11: _many("attribute_proto"),
    12: _many("value_info"), 13: _one("overload"), 14: _many("metadata_props"),
})  # fmt: skip
VALUE_INFO = Message("ValueInfoProto", {
    1: _one("name"), 2: _one("type"), 3: _one("doc_string"), 4: _many("metadata_props"),
})  # fmt: skip
TYPE = Message("TypeProto", {
    1: _one("tensor_type"), 4: _one("sequence_type"), 5: _one("map_type"), 6: _one("denotation"),
    7: _one("opaque_type"), 8: _one("sparse_tensor_type"), 9: _one("optional_type"),
})  # fmt: skip
TENSOR_TYPE = Message("TypeProto.Tensor", {1: _one("elem_type", VARINT), 2: _one("shape")})
SHAPE = Message("TensorShapeProto", {1: _many("dim")})
DIMENSION = Message("TensorShapeProto.Dimension", {
    1: _one("dim_value", VARINT), 2: _one("dim_param"), 3: _one("denotation"),
})  # fmt: skip
