"""Flow-matching solvers, each with sigmas [steps + 1], timesteps [steps] and one step(velocity, sample) a model call.

UniPC and DPM++ are Wan's own, which no package holds, over plain tensors; the other two are those of diffusers.
"""

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler


def shifted(base, shift):
    return shift * base / (1 + (shift - 1) * base)


def official_schedule(base, shift):
    """Sigmas in float32, from float64, and the whole timesteps that the model sees."""
    sigmas = shifted(base[:-1], shift)
    return torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32)), torch.from_numpy(sigmas * 1000).long()


def log_snr(sigma):
    return torch.log(1 - sigma) - torch.log(sigma)  # -inf at sigma 1, +inf at sigma 0: both are used


class DpmPlusPlus:
    """DPM-Solver++ of order 2, midpoint, first order at both ends."""

    def __init__(self, steps, shift):
        self.sigmas, self.timesteps = official_schedule(np.linspace(1.0, 0.0, steps + 1), shift)
        self.index, self.before = 0, None

    def step(self, velocity, sample):
        s, i, last = self.sigmas, self.index, len(self.sigmas) - 2
        data = sample - s[i] * velocity
        h = log_snr(s[i + 1]) - log_snr(s[i])
        estimate = data
        if 0 < i < last:
            ratio = (log_snr(s[i]) - log_snr(s[i - 1])) / h
            estimate = data + 0.5 * (1 / ratio) * (data - self.before)
        self.before, self.index = data, i + 1
        return s[i + 1] / s[i] * sample - (1 - s[i + 1]) * (torch.exp(-h) - 1) * estimate


class UniPC:
    """UniPC of order 2 (bh2, data prediction): predicts the next sample and corrects the one before."""

    def __init__(self, steps, shift):
        start = float(np.float32(0.999))
        self.sigmas, self.timesteps = official_schedule(np.linspace(start, 0.0, steps + 1), shift)
        self.index, self.order = 0, 0
        self.history, self.corrected = [], None

    def step(self, velocity, sample):
        i, steps = self.index, len(self.sigmas) - 1
        data = sample - self.sigmas[i] * velocity
        if i > 0:
            sample = self._update(self.corrected, i - 1, self.order, data)
        self.history = (self.history + [data])[-2:]
        self.corrected, self.order, self.index = sample, min(2, steps - i, i + 1), i + 1
        return self._update(sample, i, self.order, None)

    def _update(self, sample, j, order, new):
        """Goes from sigma j to sigma j + 1; `new` is the data estimate there, for the corrector only."""
        s, data = self.sigmas, self.history[-1]
        h = log_snr(s[j + 1]) - log_snr(s[j])
        e, residual = torch.expm1(-h), 0.0
        if order == 2:
            ratio = (log_snr(s[j - 1]) - log_snr(s[j])) / h
            difference = (self.history[-2] - data) / ratio
            if new is None:
                residual = 0.5 * difference
            else:
                g = e / -h - 1
                c1, c2 = g / e, (g / -h - 0.5) * 2 / e
                rho = (c1 - c2) / (1 - ratio)
                residual = rho * difference + (c1 - rho) * (new - data)
        elif new is not None:
            residual = 0.5 * (new - data)
        return s[j + 1] / s[j] * sample - (1 - s[j + 1]) * e * (data + residual)


class Diffusers:
    def __init__(self, scheduler, steps):
        scheduler.set_timesteps(steps)
        self.scheduler, self.sigmas, self.timesteps, self.index = scheduler, scheduler.sigmas, scheduler.timesteps, 0

    def step(self, velocity, sample):
        timestep, self.index = self.timesteps[self.index], self.index + 1
        return self.scheduler.step(velocity, timestep, sample, return_dict=False)[0]


def diffusers_unipc(shift):
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def make_solver(name, steps, shift):
    if name == "unipc":
        return UniPC(steps, shift)
    if name == "dpm++":
        return DpmPlusPlus(steps, shift)
    if name == "euler":
        return Diffusers(FlowMatchEulerDiscreteScheduler(shift=shift), steps)
    if name == "diffusers_unipc":
        return Diffusers(diffusers_unipc(shift), steps)
    raise ValueError(f"unknown solver {name}")
