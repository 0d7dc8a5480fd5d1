"""`cnn` on TensorFlow against the same network written plainly, as the original's layers are.

    TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 python benchmarks/cnn_tf.py [--turns 5]

The plain one is convolution, bias, rectifier, pooling and doubling, one layer after the other, the
heads behind the doubling, trained by Keras's Adam in one graph.  Both have the same weights, and
their patches are compared first.  A step of training is: patches, exit waves, amplitude loss,
gradients, a step of Adam.  The plain one computes in fp32, ours by --precision.  The two take turns
within a process, batch 16, N = 64, C = 1, in seconds of CPU time; a figure is the median over the
turns, the quotient that of the quotients turn by turn.  Prints JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from ptychoconfig.payloads import create_training_payload
from ptychoconfig.schema import SimulationConfig
from ptychodata.simulate import simulate
from ptychodata.training.batches import Rows
from ptychotf._start import start_tensorflow

start_tensorflow()

import tensorflow as tf  # noqa: E402 - started without its chatter
from tensorflow import Tensor  # noqa: E402

from ptychotf import physics  # noqa: E402
from ptychotf.batches import in_tensors  # noqa: E402
from ptychotf.device import choose_dtype  # noqa: E402
from ptychotf.learner import Learner  # noqa: E402
from ptychotf.networks import build_network  # noqa: E402
from ptychotf.networks._layers import doubled, silu  # noqa: E402

BATCH = 16


def plain(made: Any, amplitude: Tensor) -> Tensor:
    """(G, C, N, N) amplitudes → patches, by the layers of ``made``, each called as it stands."""
    x = tf.transpose(amplitude, [0, 2, 3, 1])
    for block in made.encoder:
        x = tf.nn.max_pool2d(convolved(block, x), 2, 2, "VALID")
    modulus = tf.exp(made.log_scale) * decoded(made.amplitude, x)
    phase = decoded(made.phase, x)
    patches = tf.complex(modulus * tf.cos(phase), modulus * tf.sin(phase))
    return tf.transpose(patches, [0, 3, 1, 2])


def convolved(block: Any, x: Tensor) -> Tensor:
    """Two convolutions, each rectified."""
    for layer in (block.conv1, block.conv2):
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, layer.kernel, 1, "SAME"), layer.bias))
    return x


def decoded(decoder: Any, x: Tensor) -> Tensor:
    """Blocks, each followed by a doubling; the centre of the patch, and the border around it."""
    for block in decoder.up:
        x = doubled(convolved(block, x))
    image = decoder.activation(decoder.head(x[..., :-4]))
    quarter = image.shape[1] // 2
    around = [[0, 0], [quarter, quarter], [quarter, quarter], [0, 0]]
    convolutions, head = decoder.border
    border = head(doubled(convolved(convolutions, x[..., -4:])))
    image, inside = tf.pad(image, around), tf.pad(tf.ones_like(image[:1]), around)
    return image + silu(border) * (1 - inside)


def main() -> None:
    """Compare the outputs, then measure in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", default="32-true")
    arguments = parser.parse_args()
    scan = simulate(SimulationConfig(N=64, n_patterns=100, overlap=0.8))
    flags = {"architecture": "cnn", "batch_size": BATCH, "precision": arguments.precision}
    payload = create_training_payload(N=64, flags=flags, environment={})
    ours, theirs = build_network(payload.model, 0), build_network(payload.model, 0)
    learner = Learner(ours, [scan], payload, tf.distribute.get_strategy())
    parts = learner.read(Rows(0, np.arange(BATCH)[:, None]))
    batch = in_tensors(parts[0])
    shifted = physics.shift_probe(tf.constant(scan.photon_probe), batch.fraction)
    x = tf.random.stateless_uniform((2, 1, 64, 64), (0, 0))
    ends = [ours.generator(x).numpy(), plain(theirs.generator, x).numpy()]
    np.testing.assert_allclose(*ends, atol=1e-5)
    ours.compute_dtype = choose_dtype(payload.execution, "/CPU:0")
    theirs.generator = lambda amplitude, made=theirs.generator: plain(made, amplitude)
    optimizer = tf.keras.optimizers.Adam(1e-3)
    weights = list(theirs.weights.values())
    optimizer.build(weights)

    @tf.function(autograph=False)
    def plain_step() -> None:
        with tf.GradientTape() as tape:
            waves = physics.exit_waves(shifted, theirs(shifted, batch))
            rate = physics.intensity(physics.far_field(waves, corner=True))
            loss = physics.amplitude_mse(rate, batch.counts, scan.mean_photons)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    def our_step() -> None:
        learner.learn(parts)
        learner.step(1e-3)

    inferred = {
        name: tf.function(lambda n=network: n(shifted, batch), autograph=False)
        for name, network in (("plain", theirs), ("ours", ours))
    }
    works = {
        "plain train": plain_step,
        "ours train": our_step,
        "plain infer": inferred["plain"],
        "ours infer": inferred["ours"],
    }
    seconds = {name: [spent(work), spent(work)][:0] for name, work in works.items()}
    for _ in range(arguments.turns):
        for name, work in works.items():
            seconds[name].append(spent(work))
    print(json.dumps(report(seconds), indent=1))


def spent(work: Callable[[], Any]) -> float:
    """Seconds of CPU time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def report(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Groups per second, and how much faster than the plain network."""
    gains = {
        what: median(
            p / mine
            for p, mine in zip(seconds[f"plain {what}"], seconds[f"ours {what}"], strict=True)
        )
        for what in ("train", "infer")
    }
    return {
        "groups_per_s_of_cpu": {n: round(BATCH / median(s), 1) for n, s in seconds.items()},
        "gain_over_plain": {what: round(gain, 2) for what, gain in gains.items()},
    }


if __name__ == "__main__":
    main()
