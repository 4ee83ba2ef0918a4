"""Runs saved networks on numpy arrays, without torch.

    model = weebill.runtime.load("mobilenet_v3_large.weebill")
    scores = model(x)

`weebill.save` writes such files where torch is installed. The kernels are those of the torch ops,
and fused blocks give the same results bit for bit. Threads are a pool of the library's own; see
`weebill.config.set_threads`.
"""

from weebill.runtime._model import Model, load

__all__ = ["Model", "load"]
