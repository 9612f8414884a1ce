"""A kiosk bundle as a differentiable torch module: what a white-box attacker has, and what a recipe goes on from.

The module computes what the bundle's graph computes, output for output but nearest prototypes, so that gradients pass
through the prediction, the latent and all energies together. The bundle is verified first; the weights come from the
bytes that were verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from serving.bundles.bundle import assemble, read_bundle, read_keys
from serving.errors import BundleRejected, Rejection
from serving.train.density import ROOT_OFFSET
from serving.train.kiosk.network import KioskNet, Stage

SLOPE_ROOM = 1e-12  # keeps the slope of a root finite at zero


class KioskModule(nn.Module):
    """Images float (n, 28, 28) to the outputs of the graph by name; in evaluation mode, constant in the weights.

    `net` is the network itself, to (latent, logits) of images (n, 1, 28, 28); `densities` what the bundle's weights
    hold beside it. On the CPU.
    """

    def __init__(self, net: KioskNet, densities: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        self.densities = dict(densities)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        seen = images.clamp(0.0, 1.0)
        latent, logits, middle = self.net.everything(seen.unsqueeze(1))
        return {
            "probabilities": logits.softmax(1),
            "logits": logits,
            "latent": latent,
            "energy": -logits.logsumexp(1),
            "mahalanobis": self._mahalanobis(middle),
            "residual": self._residual(seen.flatten(1)),
        }

    def _mahalanobis(self, middle: Tensor) -> Tensor:
        roots = torch.sqrt(middle + ROOT_OFFSET)
        apart = (
            torch.einsum("nd,cde->nce", roots, self.densities["classes.whitening"]) - self.densities["classes.means"]
        )
        nearest: Tensor = (apart.square().sum(2).amin(1) + SLOPE_ROOM).sqrt()
        return nearest

    def _residual(self, flat: Tensor) -> Tensor:
        components = self.densities["plane.components"]
        centred = flat - self.densities["plane.mean"]
        surprise: Tensor = centred - centred @ components @ components.T
        return (surprise.square().mean(1) + SLOPE_ROOM).sqrt()


def load_kiosk_module(directory: Path, trusted_keys: Sequence[Path]) -> KioskModule:
    """Verify a kiosk bundle and return it as a module.

    Args:
        directory: the bundle's directory itself (`bundles/kiosk/2`).
        trusted_keys: PEM files of ECDSA P-256 public keys, any of which may have signed it.

    Raises:
        BundleRejected: as `serving.bundles.bundle.load_bundle`, and where it is not of a recipe of the kiosk.
    """
    files = read_bundle(directory)
    bundle = assemble(files, read_keys(trusted_keys))
    stages = bundle.manifest["training"].get("stages")
    if bundle.name != "kiosk" or not stages:
        raise BundleRejected(Rejection.MANIFEST, "manifest.json", "is not of the kiosk's recipe", directory)
    weights = safetensors.torch.load(files[bundle.manifest["weights"]])
    net = KioskNet(len(bundle.class_names), tuple(Stage(**stage) for stage in stages))
    names = net.state_dict().keys()
    net.load_state_dict({name: value for name, value in weights.items() if name in names})
    return KioskModule(net, {name: value for name, value in weights.items() if name not in names})
