"""How fast a system is, what it needs, and how it scales.

`python -m jaxser.benchmark`; see `jaxser.benchmark.__main__`. Needs neither
TensorFlow nor PyTorch, except to compare with them or to read a corpus.
"""
