"""Test settings: eight virtual devices, strict shapes, quiet TensorFlow."""

import os

# Before JAX starts: multi-device tests run on virtual devices of one CPU.
# Small programs run once: compiling them well would take most of the time.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8'
  + ' --xla_backend_optimization_level=0'
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
