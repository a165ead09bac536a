"""Optimizer steps as formulas, differentiable in parameters, gradients and buffers: what a whole training is unrolled by."""

import torch

from assay.maths.trajectories import SGDUpdate


def step(update, params, gradients, buffers, rates, count):
    """Parameters and buffers after step number `count` (from 0)."""
    return (sgd if isinstance(update, SGDUpdate) else adam)(update, params, gradients, buffers, rates, count)


def sgd(update, params, gradients, buffers, rates, count):
    moved, kept = {}, {}
    for name, theta in params.items():
        move = gradients[name] + update.decay * theta
        if update.momentum:
            old = None if count == 0 else buffers["momentum_buffer"][name]
            kept[name] = move if old is None else update.momentum * old + (1 - update.dampening) * move
            move = move + update.momentum * kept[name] if update.nesterov else kept[name]
        moved[name] = theta - rates[name] * move
    return moved, {"momentum_buffer": kept} if update.momentum else {}


def adam(update, params, gradients, buffers, rates, count):
    moved, first, second = {}, {}, {}
    b1, b2 = update.betas
    for name, theta in params.items():
        g = gradients[name] + (0.0 if update.decoupled else update.decay) * theta
        m, v = (buffers[slot][name] if count else torch.zeros_like(theta) for slot in ("exp_avg", "exp_avg_sq"))
        first[name], second[name] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g.square()
        m_hat, v_hat = first[name] / (1 - b1 ** (count + 1)), second[name] / (1 - b2 ** (count + 1))
        shrunk = theta * (1 - rates[name] * update.decay) if update.decoupled else theta
        moved[name] = shrunk - rates[name] * m_hat / ((v_hat + update.root).sqrt() + update.eps)
    return moved, {"exp_avg": first, "exp_avg_sq": second}


def averaged(averages, params, decay):
    """Running averages after a step; the parameters themselves where there are none yet."""
    return {name: decay * averages[name] + (1 - decay) * theta if averages else theta for name, theta in params.items()}
