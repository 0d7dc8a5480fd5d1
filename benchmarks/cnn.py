"""`cnn` against the same network written plainly: contiguous fp32 layers, one after the other.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/cnn.py [--N 64] [--C 1] [--turns 5]

The plain one is what the original's layers do: convolutions on contiguous tensors, heads behind
the doubling, no layer fused with another.  Both have the same weights, and their patches are
compared first.  A step of training is: patches, exit waves, amplitude loss, gradients, a step of
Adam; of inference: patches.  The variants take turns within a process, batch 16, in seconds of CPU
time of one thread; a figure is the median over the turns, a quotient the median of the quotients
turn by turn.  Prints JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the framework's own custom
from torch import Tensor, nn

from ptychoconfig.schema import ModelConfig, SimulationConfig
from ptychodata.simulate import simulate
from ptychotorch import physics
from ptychotorch.batches import Batch, GroupDataset
from ptychotorch.networks import build_network
from ptychotorch.networks._base import PatternNetwork

BATCH = 16


class Plain(nn.Module):
    """The layers of ``cnn``, taken from ``made``, each called as it stands."""

    def __init__(self, made: nn.Module) -> None:
        super().__init__()
        self.made = made

    def forward(self, amplitude: Tensor) -> Tensor:
        """(G, C, N, N) amplitudes → (G, C, N, N) patches."""
        made: Any = self.made
        features = amplitude
        for block in made.encoder:
            features = F.max_pool2d(convolved(block, features), 2)
        modulus = made.log_scale.exp()[:, None, None] * decoded(made.amplitude, features).float()
        phase = decoded(made.phase, features).float()
        return torch.complex(modulus * phase.cos(), modulus * phase.sin())


def convolved(block: Any, x: Tensor) -> Tensor:
    """Two convolutions, each rectified."""
    return F.relu(block.conv2(F.relu(block.conv1(x))))


def decoded(decoder: Any, features: Tensor) -> Tensor:
    """Blocks, each followed by a doubling; the centre of the patch, and the border around it."""
    x = features
    for block in decoder.up:
        x = F.interpolate(convolved(block, x), scale_factor=2.0)
    image = decoder.activation(decoder.head(x[:, :-4]))
    quarter = (image.shape[-1] // 2,) * 4
    image, inside = F.pad(image, quarter), F.pad(torch.ones_like(image), quarter)
    convolutions, head = decoder.border
    border = head(F.interpolate(convolved(convolutions, x[:, -4:]), scale_factor=2.0))
    return image + F.silu(border) * (1 - inside)


def main() -> None:
    """Compare the outputs, then measure in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--N", type=int, default=64)
    parser.add_argument("--C", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = ModelConfig(architecture="cnn", N=arguments.N, gridsize=int(arguments.C**0.5))
    scan = simulate(SimulationConfig(N=model.N, n_patterns=100, overlap=0.8))
    draw = np.random.default_rng(0)
    groups = np.stack([draw.permutation(len(scan))[: model.C] for _ in range(BATCH)])
    batch = GroupDataset([scan])[0, groups]
    probe = torch.from_numpy(scan.photon_probe)
    networks = variants(model)
    works = {
        f"{name} {what}": act(network, batch, probe, scan.mean_photons)
        for name, network in networks.items()
        for what, act in (("train", training), ("infer", inference))
    }
    seconds = {name: [spent(work)] for name, work in works.items()}  # the first does not count
    for _ in range(arguments.turns):
        for name, work in works.items():
            seconds[name].append(spent(work))
    print(json.dumps(report({name: each[1:] for name, each in seconds.items()}), indent=1))


def variants(model: ModelConfig) -> dict[str, PatternNetwork]:
    """The plain network and ours with the same weights; in bf16 where there are units for it."""
    found: dict[str, PatternNetwork] = {}
    has_units = torch.cpu.get_capabilities().get("avx512_bf16", False)
    for name in ("plain fp32", "ours fp32", *(["ours bf16"] if has_units else [])):
        torch.manual_seed(0)
        network = build_network(model)
        assert isinstance(network, PatternNetwork)
        if name.startswith("plain"):
            network.generator = Plain(network.generator)
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if name.endswith("bf16"):
            network.compute_dtype = torch.bfloat16
        found[name] = network
    with torch.inference_mode():
        x = torch.rand(4, model.C, model.N, model.N)
        torch.testing.assert_close(*(it.generator(x) for it in list(found.values())[:2]))
    return found


def training(
    network: PatternNetwork, batch: Batch, probe: Tensor, mean_photons: float
) -> Callable[[], None]:
    """One optimiser step."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step() -> None:
        shifted = physics.shift_probe(probe, batch.fraction)
        patches = network(shifted, batch)
        waves = physics.far_field(physics.exit_waves(shifted, patches), corner=True)
        rate = physics.intensity(waves, batch.background)
        optimizer.zero_grad()
        physics.amplitude_mse(rate, batch.counts, mean_photons).backward()
        optimizer.step()

    return step


def inference(
    network: PatternNetwork, batch: Batch, probe: Tensor, mean_photons: float
) -> Callable[[], None]:
    """The patches of one batch."""

    @torch.inference_mode()
    def step() -> None:
        shifted = physics.shift_probe(probe, batch.fraction)
        network(shifted, batch)

    return step


def spent(work: Callable[[], None]) -> float:
    """Seconds of CPU time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def report(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Groups per second, and how much faster than the plain network."""
    speed = {name: round(BATCH / median(each), 1) for name, each in seconds.items()}
    gain = {}
    for what in ("train", "infer"):
        plain = seconds[f"plain fp32 {what}"]
        for name in (key for key in seconds if key.startswith("ours") and key.endswith(what)):
            pairs = zip(plain, seconds[name], strict=True)
            gain[name] = round(median(p / mine for p, mine in pairs), 2)
    return {"groups_per_s_of_cpu": speed, "gain_over_plain": gain, "threads": 1}


if __name__ == "__main__":
    main()
