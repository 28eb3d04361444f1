"""Other streaming systems under the same frames and the same work, each run by an interpreter of its own.

What stands here is imported by those interpreters too: the standard library, numpy, OpenCV and onnxruntime only.
"""
