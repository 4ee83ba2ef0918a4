"""An aarch64 torch and the operators that register themselves in it: converted networks beside
torch's own."""

from __future__ import annotations

import torch

import weebill

NETWORKS = ("mobilenet_v3_small", "efficientnet_lite0")


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    assert weebill.config.isa() == "neon"
    for name in NETWORKS:
        model = weebill.models.create_model(name).eval()
        x = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected = model(x)
            got = weebill.convert(model)(x)
        error = float((got - expected).abs().max() / expected.abs().max())
        assert error < 2e-5, f"{name}: largest difference {error:.1e} of the largest value"
        assert error > 0, f"{name}: nothing was fused"
    print(f"torch {torch.__version__}: {len(NETWORKS)} networks")


if __name__ == "__main__":
    main()
